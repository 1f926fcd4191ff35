"""The examination of openness: evidence, then the framework's class, the definition, the index and the verdict."""

from dataclasses import dataclass, replace
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.card import Card
from freehold.inspection.evidence.facts import Fact, Standing
from freehold.inspection.evidence.gather import Facts, gather
from freehold.inspection.findings import NOT_EVIDENCED, Row, Section, Status, evidence_dict
from freehold.inspection.openness.licences import licence_lists
from freehold.inspection.openness.mof import Classification, Component, classify, components
from freehold.inspection.openness.mof_record import UNLICENSED
from freehold.inspection.openness.osai_index import Grade, Rating, rate
from freehold.inspection.openness.osaid import Element, Met, assess, is_open_source
from freehold.inspection.openness.release import Release
from freehold.inspection.openness.verdict import Verdict, judge
from freehold.inspection.terms import ReleaseTerms, Terms


@dataclass(frozen=True)
class Openness:
    release: Release
    verdict: Verdict
    mof: Classification
    osaid: tuple[Element, ...]
    index: tuple[Rating, ...]

    def section(self) -> Section:
        return Section("Openness", self.verdict.name, tuple(self._rows()), tuple(self._notes()))

    def _rows(self) -> list[Row]:
        rows = [self._licence_row()]
        rows += [
            Row(c.name, *self._component(c), self.release.fact(c.key).evidence)
            for c in components()
            if not c.is_optional
        ]
        is_met = is_open_source(self.osaid)
        value = "met" if is_met else f"{sum(e.met is Met.YES for e in self.osaid)} of {len(self.osaid)} elements met"
        rows.append(Row("Open Source AI Definition 1.0", value, Status.GOOD if is_met else Status.BAD))
        grades = [f"{sum(r.grade is grade for r in self.index)} {grade}" for grade in Grade]
        rows.append(Row("Rated as the European index does", ", ".join(grades)))
        return rows

    def _licence_row(self) -> Row:
        terms = self.release.weights
        if not terms.name:
            return Row("Licence of the weights", NOT_EVIDENCED, Status.UNKNOWN)
        value = terms.name if terms.is_open else f"{terms.name}: not an open licence"
        return Row("Licence of the weights", value, Status.GOOD if terms.is_open else Status.BAD, terms.evidence)

    def _component(self, component: Component) -> tuple[str, Status]:
        fact: Fact = self.release.fact(component.key)
        if not fact.is_published and component.stands_in and self.release.fact(component.stands_in).is_present:
            return f"the {component.stands_in.replace('_', ' ')} stands in", Status.NEUTRAL
        if not fact.is_present:
            status = {Standing.PARTIAL: Status.PARTIAL, Standing.ABSENT: Status.BAD}.get(fact.standing, Status.UNKNOWN)
            words = {Standing.PARTIAL: "in part", Standing.ABSENT: "said not to be published"}
            value = words.get(fact.standing, NOT_EVIDENCED)
            return f"{value}: {fact.detail}" if fact.detail else value, status
        licence = self.release.licence_of(component.key)
        is_counted = component.key not in {c.key for missing in self.mof.missing.values() for c in missing}
        value = f"there, {licence or 'licence not evidenced'}"
        return f"{value} ({fact.detail})" if fact.detail else value, Status.GOOD if is_counted else Status.PARTIAL

    def summary(self) -> tuple[Row, ...]:
        is_open = self.release.weights.is_open
        rows = [Row("Openness", f"{self.verdict.name}: {self.verdict.plain}", Status.GOOD if is_open else Status.BAD)]
        if self.verdict.next_name:
            rows.append(Row("Next", self._lacks_for_next()))
        lacks = f"; {lacks}" if (lacks := self._lacks_for_class()) else ""
        return (*rows, Row("MOF class", f"Model Openness Framework 1.0: {self.mof.label}{lacks}"))

    def _notes(self) -> list[str]:
        notes = [f"In plain words: {self.verdict.plain}."]
        if self.verdict.next_name:
            notes.append(f"{self._lacks_for_next()}.")
        notes.append(f"Model Openness Framework 1.0: {self.mof.label}, {self._progress()}.")
        if lacks := self._lacks_for_class():
            notes.append(f"{lacks[0].upper()}{lacks[1:]}.")
        if asserted := self._asserted():
            notes.append(f"Stated by persons and not by the artefacts: {asserted}.")
        if self.release.card.problem:
            notes.append(f"{self.release.card.file}: {self.release.card.problem}; its fields were not read.")
        if self.release.card.is_cut:
            notes.append(f"{self.release.card.file} is longer than what was read of it.")
        return notes

    def _lacks_for_next(self) -> str:
        return f"For “{self.verdict.next_name}” it lacks: {'; '.join(self.verdict.missing)}"

    def _lacks_for_class(self) -> str:
        """What the next class of the framework still asks for; empty in the highest."""
        if self.mof.number == 1:
            return ""
        number = self.mof.number - 1 if self.mof.number else 3
        return f"for Class {'I' * number} it lacks: {self._lacks(self.mof.missing[number])}"

    def _progress(self) -> str:
        return ", ".join(f"{self.mof.progress[number]:.0f} % of Class {'I' * number}" for number in (3, 2, 1))

    def _lacks(self, missing: tuple[Component, ...]) -> str:
        """What is not there, and of what is there the licence."""
        names = {component.key: component.name.lower() for component in components()}
        closed = [names[key] for c in missing if (key := self._present(c))]
        absent = [f"the {names[c.key]}" for c in missing if not self._present(c)]
        licence = [f"an open licence of the {', the '.join(closed)}"] if closed else []
        return "; ".join(absent + licence)

    def _present(self, component: Component) -> str:
        """The key under which a component is there: its own, or that of what stands in for it; empty: neither."""
        keys = (component.key, component.stands_in)
        return next((key for key in keys if key and self.release.fact(key).is_present), "")

    def _asserted(self) -> str:
        claims = [
            f"{topic.replace('_', ' ')} ({evidence.asserted_by})"
            for topic, fact in self.release.facts.by_topic.items()
            for evidence in fact.evidence
            if evidence.asserted_by
        ]
        return ", ".join(dict.fromkeys(claims))

    def to_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.name,
            "plain": self.verdict.plain,
            "next": self.verdict.next_name or None,
            "missing_for_next": list(self.verdict.missing),
            "weights_licence": {"name": self.release.weights.name or None, "open": self.release.weights.is_open},
            "mof": self.mof.to_dict() | {"missing": {str(n): [c.name for c in m] for n, m in self.mof.missing.items()}},
            "components": {c.key: self._fact_dict(c.key) for c in components()},
            "topics": {topic: self._fact_dict(topic) for topic, _ in self._known_facts()},
            "osaid": {
                "open_source": is_open_source(self.osaid),
                "elements": [
                    {"key": e.key, "met": str(e.met), "why": e.why, "evidence": [evidence_dict(i) for i in e.evidence]}
                    for e in self.osaid
                ],
            },
            "osai_index": {
                r.key: {
                    "grade": str(r.grade),
                    "why": r.why,
                    "evidenced": r.is_evidenced,
                    "evidence": [evidence_dict(e) for e in r.evidence],
                }
                for r in self.index
            },
        }

    def _known_facts(self) -> list[tuple[str, Fact]]:
        return [(t, f) for t, f in self.release.facts.by_topic.items() if f.standing is not Standing.UNKNOWN]

    def _fact_dict(self, topic: str) -> dict[str, Any]:
        fact = self.release.fact(topic)
        return {
            "standing": str(fact.standing),
            "licence": (self.release.licence_of(topic) or None) if fact.is_present else None,
            "detail": fact.detail,
            "evidence": [evidence_dict(e) for e in fact.evidence],
        }


def examine(artefacts: Artefacts, card: Card, terms: ReleaseTerms) -> Openness:
    """How open the model is, given its licences. Raises ModelFileError for a wrong `evidence.yaml`."""
    facts = gather(artefacts, card)
    release = Release(facts, replace(terms, weights=_weights(terms.weights, facts)), card)
    elements = assess(release)
    return Openness(release, judge(release, elements), classify(release.licences), elements, rate(release))


def _weights(terms: Terms, facts: Facts) -> Terms:
    """What the artefacts tell; where they are silent, what a record or a person states."""
    stated = facts["model_parameters_final"]
    if terms.name or stated.licence in ("", UNLICENSED):
        return terms
    evidence = tuple(e for e in stated.evidence if e.asserted_by)
    return Terms(stated.licence, licence_lists().is_open(stated.licence), evidence)

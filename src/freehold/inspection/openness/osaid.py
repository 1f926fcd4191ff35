"""The Open Source AI Definition 1.0: data information, code and parameters, each under open terms.

Its elements stand in data/osaid.toml.
"""

from dataclasses import dataclass
from enum import StrEnum

from freehold.inspection.evidence.facts import Fact, Standing
from freehold.inspection.findings import Evidence
from freehold.inspection.openness.criteria import criteria
from freehold.inspection.openness.licences import licence_lists
from freehold.inspection.openness.release import Release


class Met(StrEnum):
    YES = "met"
    NO = "not met"
    UNKNOWN = "not evidenced"


@dataclass(frozen=True, slots=True)
class Element:
    key: str
    group: str
    label: str
    met: Met
    why: str
    evidence: tuple[Evidence, ...]


def assess(release: Release) -> tuple[Element, ...]:
    """Every element of the definition, with what it rests on."""
    return tuple(_element(release, entry) for entry in criteria("osaid")["element"])


def is_open_source(elements: tuple[Element, ...]) -> bool:
    return all(element.met is Met.YES for element in elements)


def _element(release: Release, entry: dict) -> Element:
    topics = [t for t in entry["topics"] if t != "posttraining_data" or release.facts.is_tuned]
    judged = [_judge(release, topic, entry.get("licence")) for topic in topics]
    worst = min(judged, key=lambda each: (Met.NO, Met.UNKNOWN, Met.YES).index(each[0]))
    evidence = tuple(dict.fromkeys(e for topic in topics for e in release.fact(topic).evidence))
    return Element(entry["key"], entry["group"], entry["label"], worst[0], worst[1], evidence)


def _judge(release: Release, topic: str, terms: str | None) -> tuple[Met, str]:
    fact: Fact = release.fact(topic)
    subject = topic.replace("_", " ").replace("pretraining", "pre-training").replace("posttraining", "post-training")
    if fact.standing is Standing.UNKNOWN:
        return Met.UNKNOWN, f"{subject}: not evidenced"
    if fact.standing is Standing.ABSENT:
        return Met.NO, f"{subject}: said not to be published{_words(fact)}"
    if fact.standing is Standing.PARTIAL:
        return Met.NO, f"{subject}: in part only{_words(fact)}"
    licence = release.licence_of(topic)
    if terms is None:
        return Met.YES, fact.detail
    if not licence:
        return Met.UNKNOWN, "its licence is not evidenced"
    lists = licence_lists()
    suits = lists.is_osi_approved(licence) if terms == "osi" else lists.is_open(licence)
    return (Met.YES, f"{licence}{f', {fact.detail}' if fact.detail else ''}") if suits else (Met.NO, f"under {licence}")


def _words(fact: Fact) -> str:
    return f", {fact.detail}" if fact.detail else ""

"""The examination of a model's licences: each part by its sources, what it inherits, and where sources contradict."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from freehold.inspect.artefacts import Artefacts
from freehold.inspect.findings import Section
from freehold.inspect.licence import lineage
from freehold.inspect.licence.expression import joined
from freehold.inspect.licence.front import read_card
from freehold.inspect.licence.section import section
from freehold.inspect.licence.sources import Kind, Source, gather
from freehold.inspect.licence.terms import Clause, Conflict, Finding, Openness, Parent, ScopeFinding, Sort, as_json

SCOPES = ("weights", "code", "data")
NOTICE = "This is information read out of the files by a program, not legal advice."
_NOT_EVIDENCED = "not evidenced"
_RULES_OF_LAW = ("comply_with_law",)
# Values that make two clauses of a kind different, and kinds that say the same whatever their words.
_TELLING = ("users", "revenue_usd_per_month", "names", "prefix", "regions", "law", "notice_text", "field", "percent")
_ALIKE = ("keep_notices", "licence_copy", "state_changes", "use_policy", "comply_with_law", "termination", "litigation")
_ALIKE += ("indemnity", "pass_on", "remote_restriction", "revocable", "outputs_training", "guardrails", "non_commercial", "forum")


@dataclass(frozen=True, slots=True)
class LicenceReport:
    """What is known of the licences of a model: `clauses` of the weights with what they inherit, conflicts, parents.

    `is_multimodal` is None when the artefacts do not tell.
    """

    name: str
    weights: ScopeFinding
    code: ScopeFinding
    data: ScopeFinding
    parents: tuple[Parent, ...]
    conflicts: tuple[Conflict, ...]
    clauses: tuple[Clause, ...]
    is_multimodal: bool | None
    has_notice_file: bool
    has_licence_text: bool

    def scope(self, name: str) -> ScopeFinding:
        return {"weights": self.weights, "code": self.code, "data": self.data}[name]

    def section(self) -> Section:
        return section(self, NOTICE)

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON types."""
        return {**as_json(self), "notice": NOTICE, "is_open": self.is_open}

    @property
    def is_open(self) -> bool:
        """Whether the weights are under an open licence and nothing that they are made from says otherwise."""
        return self.weights.is_open


def examine(artefacts: Artefacts) -> LicenceReport:
    """Examine the licences of a model's files. Never raises for what is in them."""
    card = read_card(artefacts)
    sources = gather(artefacts, card)
    scopes = {scope: _scope(scope, sources, artefacts) for scope in SCOPES}
    weights = scopes["weights"]
    parents = tuple(p for p in lineage.parents(artefacts, card) if not _is_told_by(weights, p))
    weights = _after_parents(weights, parents)
    conflicts = [*_between_sources(weights, sources), *_with_parents(weights, parents, artefacts.name)]
    names = [file.name.rsplit("/", 1)[-1].lower() for file in artefacts.files]
    return LicenceReport(
        artefacts.name,
        weights,
        scopes["code"],
        scopes["data"],
        parents,
        tuple(conflicts),
        _inherited(weights, parents),
        lineage.is_multimodal(artefacts, parents),
        any(name.startswith("notice") for name in names),
        any(source.kind is Kind.TEXT for source in sources),
    )


def _scope(scope: str, sources: Sequence[Source], artefacts: Artefacts) -> ScopeFinding:
    """What the weightiest sources of a part come to; texts before fields before statements."""
    own = _of_scope(scope, sources, artefacts)
    if not own:
        because = "no source in these files names one"
        if scope == "code" and not _has_code(artefacts):
            because = "there is no code in these files"
        return ScopeFinding(scope, _NOT_EVIDENCED, "", Openness.UNKNOWN, because)
    licences = [source for source in own if source.kind is not Kind.POLICY] or own
    deciding = [source.finding for source in licences if source.kind is licences[0].kind]
    restricting = [source.finding for source in own if source.kind is Kind.POLICY and _restricts(source.finding)]
    deciding = list({finding.name: finding for finding in deciding}.values())
    is_open = all(finding.is_open for finding in deciding) and not restricting
    openness = Openness.OPEN if is_open else Openness.NOT_OPEN
    if not is_open and all(finding.openness is Openness.UNKNOWN for finding in deciding):
        openness = Openness.UNKNOWN
    because = "; ".join(dict.fromkeys(finding.because for finding in deciding if finding.because))
    if restricting:
        because += "; a use policy beside it restricts what it may be used for"
    expressions = [finding.expression for finding in deciding]
    expression = joined(expressions) if all(expressions) else ""
    name = " and ".join(finding.name for finding in deciding)
    clauses = _each_once(clause for source in own if _decides(source, deciding) for clause in source.finding.clauses)
    return ScopeFinding(scope, name, expression, openness, because, tuple((s.evidence, s.finding) for s in own), clauses)


def _of_scope(scope: str, sources: Sequence[Source], artefacts: Artefacts) -> list[Source]:
    """A part's sources, weightiest first. A text that names no part is the weights', unless another is; and the code's."""
    own = [source for source in sources if source.scope == scope]
    plain = [source for source in sources if not source.scope]
    has_text = any(source.kind is Kind.TEXT for source in own)
    others_have = any(s.kind is Kind.TEXT and s.scope == "weights" for s in sources)
    if (scope == "weights" and not has_text) or (scope == "code" and not has_text and (_has_code(artefacts) or others_have)):
        own = [*own, *plain] if scope == "weights" else [*own, *(s for s in plain if s.kind is Kind.TEXT)]
    elif scope == "weights":
        own = [*own, *(source for source in plain if source.kind is Kind.POLICY)]
    order = [Kind.TEXT, Kind.FIELD, Kind.STATEMENT, Kind.POLICY]
    return sorted(own, key=lambda source: order.index(source.kind))


def _decides(source: Source, deciding: Sequence[Finding]) -> bool:
    return source.kind is Kind.POLICY or source.finding.name in {finding.name for finding in deciding}


def _restricts(finding: Finding) -> bool:
    return any(c.sort is Sort.LIMIT and c.values.get("field") != "unlawful" for c in finding.clauses if c.kind not in _RULES_OF_LAW)


def _has_code(artefacts: Artefacts) -> bool:
    return any(file.name.endswith((".py", ".cpp", ".cu", ".rs", ".js")) for file in artefacts.files)


def _between_sources(weights: ScopeFinding, sources: Sequence[Source]) -> Iterable[Conflict]:
    """Fields and statements that name another licence than the text, or than the first field."""
    if not weights.findings:
        return
    first_evidence, first = weights.findings[0]
    told: set[str] = set()
    for evidence, finding in weights.findings[1:]:
        is_policy = any(source.kind is Kind.POLICY and source.evidence == evidence for source in sources)
        if is_policy or finding.name in told or agree(finding, first):
            continue
        told.add(finding.name)
        where, there = f"{evidence.file} ({evidence.place})", f"{first_evidence.file} ({first_evidence.place})"
        plain = f"{where} says {finding.name}, but {there} is {first.name}."
        if first.base and first.base == finding.expression:
            plain = f"{where} says {finding.name}, but the text in {first_evidence.file} adds terms to it: “{_shortened(first.residual)}”"
        yield Conflict(plain, (evidence, first_evidence))


def _shortened(residual: Sequence[str]) -> str:
    text = residual[0] if residual else "words are missing or changed"
    return text if len(text) <= 240 else text[:239] + "…"


def agree(one: Finding, other: Finding) -> bool:
    """Whether two findings can be the same licence: a tag and its text, a name and its expression."""
    if one.expression and other.expression:
        return one.expression == other.expression or one.expression in other.expression.split(" AND ")
    if one.name == other.name or (one.is_open != other.is_open):
        return one.name == other.name
    if one.base or other.base:  # a modified standard text, by its name or by the text
        texts, name = (one, other) if one.base else (other, one)
        return not name.expression and texts.base.lower() in name.name.lower() or not name.has_text and not name.expression
    known, plain = _letters(one.nearest or one.name), _letters(other.nearest or other.name)
    return known in plain or plain in known or _same_clauses(one, other) or not (_is_named(one) and _is_named(other))


def _letters(name: str) -> str:
    name = name.lower().split("(")[0]
    for word in ("meta", "license", "licence", "agreement", "community", "terms of use", "model", "1.0"):
        name = name.replace(word, "")
    return "".join(c for c in name if c.isalnum())


def _same_clauses(one: Finding, other: Finding) -> bool:
    kinds = [{(c.kind, c.plain) for c in finding.clauses if c.sort is not Sort.FACT} for finding in (one, other)]
    return bool(kinds[0]) and len(kinds[0] & kinds[1]) >= 0.8 * min(len(kinds[0]), len(kinds[1]))


def _is_named(finding: Finding) -> bool:
    """Whether a finding is a licence that is known, so that another one next to it is a contradiction."""
    return bool(finding.expression or finding.likeness >= 0.5 or any(c.kind != "unread" for c in finding.clauses))


def _after_parents(weights: ScopeFinding, parents: Sequence[Parent]) -> ScopeFinding:
    """An open licence over a parent that is not open: its terms follow. A mere mark of one leaves it in doubt."""
    strict = [parent for parent in parents if parent.licence is not None and not parent.licence.is_open]
    if not weights.is_open or not strict:
        return weights
    certain = [parent for parent in strict if not parent.is_mark]
    parent = (certain or strict)[0]
    because = f"{weights.because}; but {parent.described} ({parent.licence.name if parent.licence else ''})"
    return replace(weights, openness=Openness.NOT_OPEN if certain else Openness.UNKNOWN, because=because)


def _with_parents(weights: ScopeFinding, parents: Sequence[Parent], name: str) -> Iterable[Conflict]:
    declared = [(evidence, finding) for evidence, finding in weights.findings if not finding.is_policy]
    for parent in parents:
        licence = parent.licence
        if licence is None or licence.is_open:
            continue
        contradicting = [(evidence, finding) for evidence, finding in declared if not agree(finding, licence)]
        if contradicting:
            evidence, finding = contradicting[0]
            follows = f"the {licence.name} follows what is made from it"
            yield Conflict(f"It is declared to be under {finding.name}, but {parent.described}, and {follows}.", (evidence, parent.evidence))
        yield from _name_conflict(parent, licence, name)


def _name_conflict(parent: Parent, licence: Finding, name: str) -> Iterable[Conflict]:
    if parent.is_mark or parent.relation.startswith(("itself", "quantized")):
        return
    for clause in licence.clauses:
        prefix = clause.values.get("prefix")
        if clause.kind == "name_prefix" and prefix and not name.lower().replace("_", "-").startswith(str(prefix).lower().replace(" ", "-")):
            plain = f"The {licence.name} asks that the name of a model made from it begin with “{prefix}”; this one is called {name}."
            yield Conflict(plain, (parent.evidence, clause.evidence))


def _inherited(weights: ScopeFinding, parents: Sequence[Parent]) -> tuple[Clause, ...]:
    inherited = [
        replace(clause, file=clause.file or parent.evidence.file, from_parent=parent.name)
        for parent in parents
        if parent.licence is not None
        for clause in parent.licence.clauses
    ]
    return _each_once([*weights.clauses, *inherited])


def _each_once(clauses: Iterable[Clause]) -> tuple[Clause, ...]:
    """Clauses without those that say the same again, be it in other words."""
    kept: dict[tuple[Any, ...], Clause] = {}
    for clause in clauses:
        told = {key: value for key, value in clause.values.items() if key in _TELLING}
        key = (clause.kind, str(sorted(told.items()))) if told or clause.kind in _ALIKE else (clause.kind, clause.plain)
        kept.setdefault(key, clause)
    return tuple(kept.values())


def _is_told_by(weights: ScopeFinding, parent: Parent) -> bool:
    """Whether a model's own name says only what its licence says, too."""
    if not parent.relation.startswith("itself") or parent.licence is None or not weights.findings:
        return False
    return parent.licence.is_open or agree(weights.findings[0][1], parent.licence)

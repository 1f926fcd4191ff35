"""The examination of a model's licences: each part by its sources, what it inherits, and where sources contradict."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from freehold.inspect.artefacts import Artefacts
from freehold.inspect.findings import Section
from freehold.inspect.licence import lineage
from freehold.inspect.licence.conflicts import agree, between_sources, with_parents
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
_ALIKE += (
    "indemnity",
    "pass_on",
    "remote_restriction",
    "revocable",
    "outputs_training",
    "guardrails",
    "non_commercial",
    "forum",
)


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
    conflicts = [*between_sources(weights, sources), *with_parents(weights, parents, artefacts.name)]
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
    return ScopeFinding(
        scope, name, expression, openness, because, tuple((s.evidence, s.finding) for s in own), clauses
    )


def _of_scope(scope: str, sources: Sequence[Source], artefacts: Artefacts) -> list[Source]:
    """A part's sources, weightiest first. A text that names no part is the weights', or the code's if another is theirs."""
    own = [source for source in sources if source.scope == scope]
    plain = [source for source in sources if not source.scope]
    has_text = any(source.kind is Kind.TEXT for source in own)
    others_have = any(s.kind is Kind.TEXT and s.scope == "weights" for s in sources)
    if (scope == "weights" and not has_text) or (
        scope == "code" and not has_text and (_has_code(artefacts) or others_have)
    ):
        own = [*own, *plain] if scope == "weights" else [*own, *(s for s in plain if s.kind is Kind.TEXT)]
    elif scope == "weights":
        own = [*own, *(source for source in plain if source.kind is Kind.POLICY)]
    order = [Kind.TEXT, Kind.FIELD, Kind.STATEMENT, Kind.POLICY]
    return sorted(own, key=lambda source: order.index(source.kind))


def _decides(source: Source, deciding: Sequence[Finding]) -> bool:
    return source.kind is Kind.POLICY or source.finding.name in {finding.name for finding in deciding}


def _restricts(finding: Finding) -> bool:
    return any(
        c.sort is Sort.LIMIT and c.values.get("field") != "unlawful"
        for c in finding.clauses
        if c.kind not in _RULES_OF_LAW
    )


def _has_code(artefacts: Artefacts) -> bool:
    return any(file.name.endswith((".py", ".cpp", ".cu", ".rs", ".js")) for file in artefacts.files)


def _after_parents(weights: ScopeFinding, parents: Sequence[Parent]) -> ScopeFinding:
    """An open licence over a parent that is not open: its terms follow. A mere mark of one leaves it in doubt."""
    strict = [parent for parent in parents if parent.licence is not None and not parent.licence.is_open]
    if not weights.is_open or not strict:
        return weights
    certain = [parent for parent in strict if not parent.is_mark]
    parent = (certain or strict)[0]
    because = f"{weights.because}; but {parent.described} ({parent.licence.name if parent.licence else ''})"
    return replace(weights, openness=Openness.NOT_OPEN if certain else Openness.UNKNOWN, because=because)


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

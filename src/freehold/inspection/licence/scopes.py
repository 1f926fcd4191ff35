"""The licence of one part of a model (weights, code, data): which sources speak of it, and what they come to."""

from collections.abc import Iterable, Sequence
from typing import Any

from freehold.inspection.artefacts import Artefacts
from freehold.inspection.licence import known
from freehold.inspection.licence.expression import joined
from freehold.inspection.licence.sources import Kind, Source
from freehold.inspection.licence.terms import Clause, Finding, Openness, ScopeFinding, Sort

_NOT_EVIDENCED = "not evidenced"
_CODE = (".py", ".cpp", ".cu", ".rs", ".js")
_ORDER = (Kind.TEXT, Kind.FIELD, Kind.STATEMENT, Kind.POLICY)
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


def scope_finding(scope: str, sources: Sequence[Source], artefacts: Artefacts) -> ScopeFinding:
    """What the weightiest sources of a part come to: texts before fields before statements; policies add to them."""
    own = _of_scope(scope, sources, artefacts)
    if not own:
        no_code = scope == "code" and not _has_code(artefacts)
        because = "there is no code in these files" if no_code else "no source in these files names one"
        return ScopeFinding(scope, _NOT_EVIDENCED, "", Openness.UNKNOWN, because)
    deciding = [source for source in own if source.kind is own[0].kind]
    policies = [source for source in own if source.kind is Kind.POLICY and source not in deciding]
    findings = list({source.finding.name: source.finding for source in deciding}.values())
    is_restricted = any(_restricts(source.finding) for source in policies)
    reasons = [finding.because for finding in findings if finding.because]
    reasons += ["a use policy beside it restricts what it may be used for"] if is_restricted else []
    expressions = [finding.expression for finding in findings]
    clauses = [clause for source in (*deciding, *policies) for clause in source.finding.clauses]
    return ScopeFinding(
        scope,
        " and ".join(finding.name for finding in findings),
        joined(expressions) if all(expressions) else "",
        _openness(findings, is_restricted),
        "; ".join(dict.fromkeys(reasons)),
        tuple((source.evidence, source.finding) for source in own),
        each_once(clauses if policies else [*clauses, *_policy_on_record(own[0])]),
    )


def each_once(clauses: Iterable[Clause]) -> tuple[Clause, ...]:
    """Clauses without those that say the same again, be it in other words."""
    kept: dict[tuple[Any, ...], Clause] = {}
    for clause in clauses:
        told = {key: value for key, value in clause.values.items() if key in _TELLING}
        key = (clause.kind, str(sorted(told.items()))) if told or clause.kind in _ALIKE else (clause.kind, clause.plain)
        kept.setdefault(key, clause)
    return tuple(kept.values())


def _openness(findings: Sequence[Finding], is_restricted: bool) -> Openness:
    if all(finding.openness is Openness.UNKNOWN for finding in findings):
        return Openness.UNKNOWN
    is_open = all(finding.is_open for finding in findings) and not is_restricted
    return Openness.OPEN if is_open else Openness.NOT_OPEN


def _of_scope(scope: str, sources: Sequence[Source], artefacts: Artefacts) -> list[Source]:
    """A part's sources, weightiest first. A text that names no part is the weights', or the code's if they have one."""
    own = [source for source in sources if source.scope == scope]
    plain = [source for source in sources if not source.scope]
    has_text = any(source.kind is Kind.TEXT for source in own)
    weights_have_text = any(source.kind is Kind.TEXT and source.scope == "weights" for source in sources)
    if scope == "weights":
        own += [source for source in plain if source.kind is Kind.POLICY or not has_text]
    elif scope == "code" and not has_text and (_has_code(artefacts) or weights_have_text):
        own += [source for source in plain if source.kind is Kind.TEXT]
    return sorted(own, key=lambda source: _ORDER.index(source.kind))


def _policy_on_record(source: Source) -> list[Clause]:
    """A known licence takes in its use policy by reference: its clauses hold although the file is not here."""
    if source.finding.likeness < 1.0 or not source.finding.nearest:
        return []
    return [clause.at(source.evidence.file) for clause in known.policy_clauses(source.finding.nearest)]


def _restricts(finding: Finding) -> bool:
    """Whether a policy asks more than to obey the law."""
    limits = [clause for clause in finding.clauses if clause.sort is Sort.LIMIT]
    return any(clause.values.get("field") != "unlawful" for clause in limits)


def _has_code(artefacts: Artefacts) -> bool:
    return any(file.name.endswith(_CODE) for file in artefacts.files)

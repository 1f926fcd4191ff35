"""May I use it for this? A use against the clauses: allowed, allowed if, not allowed, with the clauses."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from freehold.inspection.licence.clauses import region_label
from freehold.inspection.licence.report import NOTICE, LicenceReport
from freehold.inspection.licence.terms import Clause, Conflict, Sort, as_json
from freehold.inspection.licence.use import Use, parse_use
from freehold.inspection.licence.values import shown


class Verdict(StrEnum):
    ALLOWED = "allowed"
    ALLOWED_IF = "allowed if"
    NOT_ALLOWED = "not allowed"


CONTRADICTED = "The sources contradict each other: the strictest was taken."


@dataclass(frozen=True, slots=True)
class Reason:
    """Why: in plain words, and the clause that says so, if one does."""

    plain: str
    clause: Clause | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`refusals` stand against the use; `conditions` must be met; `also` holds only of what the use does not say."""

    verdict: Verdict
    summary: str
    under: str  # the licences that answer
    refusals: tuple[Reason, ...]
    conditions: tuple[Reason, ...]
    also: tuple[Reason, ...]
    conflicts: tuple[Conflict, ...]
    use: Use

    def to_dict(self) -> dict[str, Any]:
        return {**as_json(self), "notice": NOTICE}


def answer(report: LicenceReport, use: Use | str) -> Answer:
    """Whether a use is allowed by the licences of the weights and of what they are derived from.

    Raises RequestError for words that are not understood.
    """
    use = parse_use(use) if isinstance(use, str) else use
    refusals: list[Reason] = []
    conditions: list[Reason] = []
    also: list[Reason] = []
    told = {"refuse": refusals, "if": conditions, "also": also}
    for clause in report.clauses:
        for kind, plain in _judged(clause, use, report):
            told[kind].append(Reason(_origin(plain, clause), clause))
    _unknowns(report, refusals, conditions)
    verdict = Verdict.NOT_ALLOWED if refusals else Verdict.ALLOWED_IF if conditions else Verdict.ALLOWED
    under = _under(report)
    return Answer(
        verdict,
        _summary(verdict, under, refusals or conditions, bool(report.conflicts)),
        under,
        tuple(refusals),
        tuple(conditions),
        tuple(also),
        report.conflicts,
        use,
    )


def _origin(plain: str, clause: Clause) -> str:
    return f"{plain} (from {clause.from_parent})" if clause.from_parent else plain


def _unknowns(report: LicenceReport, refusals: list[Reason], conditions: list[Reason]) -> None:
    """Where no licence is known, no right is: what is not licensed is reserved."""
    known_parents = [parent for parent in report.parents if parent.licence is not None]
    if not report.weights.findings and not known_parents:
        refusals.append(
            Reason("No licence is evidenced in these files; without one all rights are reserved. Ask its maker.")
        )
    elif not report.weights.findings:
        parent = known_parents[0]
        name = parent.licence.name if parent.licence else ""
        told = f"No licence is stated in these files; by its lineage ({parent.name}) it is under {name}"
        conditions.append(Reason(f"{told}. Check at its origin."))
    for parent in report.parents:
        if parent.licence is None:
            conditions.append(Reason(f"It is derived from {parent.name}, whose terms are not known here: read them."))


def _summary(verdict: Verdict, under: str, reasons: list[Reason], is_contradicted: bool) -> str:
    told = " ".join(reason.plain for reason in reasons[:3]) + (
        f" And {len(reasons) - 3} more." if len(reasons) > 3 else ""
    )
    start = {"allowed": "Allowed", "allowed if": "Allowed if", "not allowed": "Not allowed"}[verdict]
    conflict = f" {CONTRADICTED}" if is_contradicted else ""
    return f"{start} ({under}){': ' + told if told else '.'}{conflict}"


def _under(report: LicenceReport) -> str:
    follows = [
        p.licence.name
        for p in report.parents
        if p.licence is not None and not p.licence.is_open and p.licence.name != report.weights.name
    ]
    return " and ".join([report.weights.name, *dict.fromkeys(follows)])


_Judgement = Iterator[tuple[str, str]]


def _judged(clause: Clause, use: Use, report: LicenceReport) -> _Judgement:
    judge = _JUDGES.get(clause.kind)
    if judge is not None:
        yield from judge(clause, use, report)
    elif clause.sort is Sort.LIMIT:
        yield "if", clause.plain
    elif clause.sort is Sort.DUTY:
        yield from _when(use.redistributes, clause.plain, "When you pass copies on")


def _when(holds: bool | None, plain: str, condition: str) -> _Judgement:
    """A condition when it holds, something beside when that was not said, nothing when it does not."""
    if holds:
        yield "if", plain
    elif holds is None:
        is_said = re.search(r"\bpass(?:ed)? on\b|\bgets\b", plain)
        yield "also", plain if is_said else f"{condition}: {plain[0].lower()}{plain[1:]}"


def _barred(does: bool | None, clause: Clause, promise: str) -> _Judgement:
    """A refusal where the use does what is barred; a promise not to where that was not said."""
    if does:
        yield "refuse", clause.plain
    elif does is None:
        yield "if", f"{promise} {clause.plain}"


def _threshold(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    """Above a threshold the licence asks for another, or ends; below it asks nothing."""
    values = clause.values
    limit, mine = values.get("users"), use.monthly_users
    if clause.kind == "revenue_threshold":
        limit, mine = values.get("revenue_usd_per_month"), use.monthly_revenue_usd
    if use.commercial is False and (
        values.get("commercial_only") or (clause.kind == "revenue_threshold" and mine is None)
    ):
        return
    barred = {"ask", "barred", "ends"} & set(values.get("effects", ()))
    if mine is None:
        yield "if", f"You stay below the limit. {clause.plain}"
    elif limit is not None and mine > limit:
        yield ("refuse" if barred else "if"), f"You have {shown(mine)}, which is over the limit. {clause.plain}"
    else:
        yield "also", f"Your {shown(mine)} are below the limit. {clause.plain}"


def _non_commercial(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield from _barred(use.commercial, clause, "Your use is not commercial.")


def _registration(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    if clause.values.get("commercial_only") and use.commercial is False:
        return
    yield "if", clause.plain


def _territory(clause: Clause, use: Use, report: LicenceReport) -> _Judgement:
    if clause.values.get("only_multimodal") and report.is_multimodal is False:
        yield "also", f"{clause.plain} This model is not multimodal as far as its files tell."
        return
    named = set(clause.values.get("regions", ()))
    hit = [r for r in use.regions if (r in named) != bool(clause.values.get("inside"))]
    if hit and (named or not clause.values.get("inside")):
        where = ", ".join(region_label(region) for region in hit)
        exempt = " Users of a product that holds it are exempt." if clause.values.get("end_users_exempt") else ""
        if clause.values.get("only_multimodal") and report.is_multimodal is None:
            yield "if", f"The model is not multimodal. {clause.plain}{exempt}"
        else:
            yield "refuse", f"You named {where}. {clause.plain}{exempt}"
    elif not use.regions or not named:
        yield "if", f"You keep to the regions. {clause.plain}"


def _outputs(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield from _barred(use.trains_models_on_outputs, clause, "You train no other models with it.")


def _derive(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield from _when(use.trains_models_on_outputs, clause.plain, "When you train models on its outputs")


def _field(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    if clause.values.get("field") in use.fields:
        yield "refuse", clause.plain


def _condition(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield "if", clause.plain


def _hosting(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    if use.serves and clause.values.get("permission"):
        yield "if", clause.plain
    else:
        yield from _barred(use.serves, clause, "You do not offer it as a service.")


def _no_redistribution(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield from _barred(use.redistributes, clause, "You keep it to yourself.")


def _no_derivatives(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield from _barred(use.modifies, clause, "You do not change it.")


def _display(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    """A name to show: above a threshold, if it names one; else whenever the model is in what others use."""
    values = clause.values
    if values.get("only_on_training"):
        holds = True if use.trains_models_on_outputs or use.modifies else use.trains_models_on_outputs
        yield from _when(holds, clause.plain, "When you train or fine-tune a model with it")
        return
    over = [use.monthly_users, use.monthly_revenue_usd]
    limits = [values.get("users"), values.get("revenue_usd_per_month")]
    stated = [(mine, limit) for mine, limit in zip(over, limits, strict=True) if limit is not None]
    if stated:
        over_one = any(mine is not None and mine > limit for mine, limit in stated)
        below_all = all(mine is not None for mine, _ in stated) or use.commercial is False
        yield ("also" if below_all and not over_one else "if"), clause.plain
    elif use.redistributes is False and use.serves is False:
        return
    else:
        yield "if", clause.plain


def _prefix(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    holds = use.trains_models_on_outputs or use.modifies
    holds = None if holds is None or (use.modifies and use.redistributes is None) else bool(holds)
    yield from _when(holds, clause.plain, "When you publish a model made with it")


def _pass_on(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    """A hosted service counts as passing on in the licences that ask for this."""
    holds = True if use.serves or use.redistributes else use.redistributes
    yield from _when(holds, clause.plain, "When others use it or get it from you")


def _source(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    holds = use.redistributes
    if clause.values.get("covers_service"):
        holds = use.serves and use.modifies is not False if use.serves else use.serves
    yield from _when(holds, clause.plain, "When you pass it on, or change it and serve it")


def _changes(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    holds = use.redistributes if use.modifies is not False else False
    yield from _when(holds, clause.plain, "When you pass on what you changed")


def _always(clause: Clause, use: Use, _: LicenceReport) -> _Judgement:
    yield "also", clause.plain


_JUDGES: Mapping[str, Callable[[Clause, Use, LicenceReport], _Judgement]] = {
    "users_threshold": _threshold,
    "revenue_threshold": _threshold,
    "non_commercial": _non_commercial,
    "registration": _registration,
    "territory": _territory,
    "outputs_training": _outputs,
    "model_training": _outputs,
    "outputs_derive": _derive,
    "field_of_use": _field,
    "use_policy": _condition,
    "hosting": _hosting,
    "no_redistribution": _no_redistribution,
    "no_derivatives": _no_derivatives,
    "display": _display,
    "name_prefix": _prefix,
    "pass_on": _pass_on,
    "source": _source,
    "state_changes": _changes,
    "share_alike": _changes,
    "indemnity": _always,
    "latest_version": _condition,
    "mark_outputs": _condition,
    "remote_restriction": _always,
    "revocable": _always,
    "guardrails": _condition,
}

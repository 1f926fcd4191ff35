"""The licences as a part of the report: a verdict, rows with their quotes, and what a reader must know beside them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from freehold.inspection.findings import Row, Section, Status
from freehold.inspection.licence.clauses import field_label
from freehold.inspection.licence.terms import Clause, Openness, ScopeFinding, Sort

if TYPE_CHECKING:
    from freehold.inspection.licence.report import LicenceReport

_STATUS = {Openness.OPEN: Status.GOOD, Openness.NOT_OPEN: Status.BAD, Openness.UNKNOWN: Status.UNKNOWN}
_SORT = {Sort.LIMIT: Status.BAD, Sort.DUTY: Status.PARTIAL, Sort.FACT: Status.NEUTRAL}
_MAX_TOLD = 6  # clauses of a sort, in short


def section(report: "LicenceReport", notice: str) -> Section:
    return Section("Licence and obligations", _verdict(report), tuple(_rows(report)), (notice, *_notes(report)))


def summary(report: "LicenceReport") -> tuple[Row, ...]:
    """The licence with its main obligations."""
    rows = [Row("Licence", _verdict(report), _STATUS[report.weights.openness], report.weights.evidence)]
    for sort, label in ((Sort.LIMIT, "It limits"), (Sort.DUTY, "It asks")):
        told = [row.value for row, of in _clause_rows(report) if of is sort]
        if told:
            more = f" And {len(told) - _MAX_TOLD} more." if len(told) > _MAX_TOLD else ""
            rows.append(Row(label, " ".join(told[:_MAX_TOLD]) + more, _SORT[sort]))
    return tuple(rows)


def _verdict(report: "LicenceReport") -> str:
    weights = report.weights
    if not weights.findings:
        start = "No licence for the weights is evidenced"
    else:
        openness = "whether it is open is in doubt" if weights.openness is Openness.UNKNOWN else str(weights.openness)
        start = f"The weights are under {weights.name}: {openness}"
        strict = [parent for parent in report.parents if parent.licence is not None and not parent.licence.is_open]
        if strict and strict[0].licence is not None and weights.findings[0][1].is_open:
            start = (
                f"The weights are declared to be under {weights.name}, but {strict[0].licence.name} follows: {openness}"
            )
    limits = sum(clause.sort is Sort.LIMIT and clause.kind != "field_of_use" for clause in report.clauses)
    duties = sum(clause.sort is Sort.DUTY for clause in report.clauses)
    parts = [
        f"{count} {word}{'s' if count > 1 else ''}" for count, word in ((limits, "limit"), (duties, "duty")) if count
    ]
    parts += (
        [f"{len(report.conflicts)} contradiction{'s' if len(report.conflicts) > 1 else ''}"] if report.conflicts else []
    )
    return f"{start}; {', '.join(parts).replace('dutys', 'duties')}" if parts else start


def _rows(report: "LicenceReport") -> Iterator[Row]:
    for scope in (report.weights, report.code, report.data):
        yield _scope_row(scope)
    for conflict in report.conflicts:
        yield Row("Contradiction", conflict.plain, Status.BAD, conflict.evidence)
    for parent in report.parents:
        under = f"under {parent.licence.name}" if parent.licence else "its terms are not known here"
        status = Status.UNKNOWN if parent.licence is None else Status.GOOD if parent.licence.is_open else Status.BAD
        yield Row("Lineage", f"{parent.name}, {under} ({parent.relation})", status, (parent.evidence,))
    yield from (row for row, _ in _clause_rows(report))


def _scope_row(scope: ScopeFinding) -> Row:
    value = scope.name if not scope.because else f"{scope.name} ({scope.because})"
    return Row(scope.scope.capitalize(), value, _STATUS[scope.openness], scope.evidence)


def _clause_rows(report: "LicenceReport") -> Iterator[tuple[Row, Sort]]:
    fields = [clause for clause in report.clauses if clause.kind == "field_of_use"]
    others = [clause for clause in report.clauses if clause.kind != "field_of_use"]
    for sort in Sort:
        for clause in others:
            if clause.sort is sort:
                value = _with_origin(clause, _met(clause, report), report.name)
                yield Row(clause.label, value, _status(clause, report), (clause.evidence,)), sort
        if sort is Sort.LIMIT and fields:
            labels = "; ".join(dict.fromkeys(field_label(clause.values["field"]) for clause in fields))
            evidence = tuple(clause.evidence for clause in fields)
            yield Row("Prohibited uses", f"Not for: {labels}.", Status.BAD, evidence), sort


def _with_origin(clause: Clause, suffix: str, name: str) -> str:
    origin = "by its name" if clause.from_parent == name else f"from {clause.from_parent}"
    return clause.plain + suffix + (f" ({origin})" if clause.from_parent else "")


def _met(clause: Clause, report: "LicenceReport") -> str:
    """Whether this very folder does what a clause asks of copies, where that can be seen."""
    if clause.kind == "notice_file":
        return " There is one here." if report.has_notice_file else " There is none here."
    if clause.kind == "licence_copy" and not report.has_licence_text:
        return " There is no licence text here."
    return ""


def _status(clause: Clause, report: "LicenceReport") -> Status:
    multimodal_only = clause.values.get("only_multimodal") and report.is_multimodal is False
    return Status.NEUTRAL if multimodal_only else _SORT[clause.sort]


def _notes(report: "LicenceReport") -> Iterator[str]:
    findings = report.weights.findings
    if (
        findings
        and not any(finding.has_text for _, finding in findings)
        and any(clause.kind != "unread" for clause in findings[0][1].clauses)
    ):
        evidence, finding = findings[0]
        yield f"{evidence.file} names {finding.name}; its text is not in the folder: the clauses are those on record."

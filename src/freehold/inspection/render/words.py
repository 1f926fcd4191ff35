"""What all forms of the report share."""

from collections.abc import Sequence

from freehold.inspection.findings import NOT_EVIDENCED, Evidence, Row, Section, Status
from freehold.inspection.report import Report

MARKS = {Status.GOOD: "+", Status.PARTIAL: "~", Status.BAD: "-", Status.UNKNOWN: "?", Status.NEUTRAL: " "}
_WORST_FIRST = (Status.BAD, Status.UNKNOWN, Status.PARTIAL, Status.NEUTRAL, Status.GOOD)
LEGEND = "+ good   ~ in part   - bad   ? not evidenced"


def where(evidence: Evidence, alone: str = "") -> str:
    """A file and the place in it, and who says so if it is not the artefact itself; `alone`: a file not to be named."""
    file = "" if evidence.file == alone else evidence.file
    place = "" if evidence.place == "file" else evidence.place
    by = f" (stated by {evidence.asserted_by})" if evidence.asserted_by else ""
    return ", ".join(filter(None, (file, place))) + by


def condensed(section: Section) -> tuple[Row, ...]:
    """A section's rows for a page: those of which nothing is evidenced are one row at the end."""
    silent = [row for row in section.rows if row.value == NOT_EVIDENCED]
    if len(silent) < 2:
        return section.rows
    rest = tuple(row for row in section.rows if row.value != NOT_EVIDENCED)
    return (*rest, Row(NOT_EVIDENCED.capitalize(), ", ".join(row.label for row in silent), Status.UNKNOWN))


def compared(reports: Sequence[Report]) -> list[tuple[str, list[tuple[str, Status]]]]:
    """Rows of a comparison: a label, and for each report what it says there."""
    titles = list(dict.fromkeys(section.title for report in reports for section in report.sections))
    table: list[tuple[str, list[tuple[str, Status]]]] = []
    for title in titles:
        sections = [next((s for s in report.sections if s.title == title), Section(title, "–")) for report in reports]
        table.append((title, [(section.verdict, Status.NEUTRAL) for section in sections]))
        for label in dict.fromkeys(row.label for section in sections for row in section.rows):
            table.append((label, [_cell(section, label) for section in sections]))
    return table


def _cell(section: Section, label: str) -> tuple[str, Status]:
    rows = [row for row in section.rows if row.label == label]
    if not rows:
        return "–", Status.NEUTRAL
    worst = min((row.status for row in rows), key=_WORST_FIRST.index)
    return "; ".join(row.value for row in rows), worst

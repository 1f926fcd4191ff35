"""What all forms of the report share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from freehold.inspection.findings import NOT_EVIDENCED, Evidence, Row, Section, Status
from freehold.inspection.report import Report

MARKS = {Status.GOOD: "+", Status.PARTIAL: "~", Status.BAD: "-", Status.UNKNOWN: "?", Status.NEUTRAL: " "}
_WORST_FIRST = (Status.BAD, Status.UNKNOWN, Status.PARTIAL, Status.NEUTRAL, Status.GOOD)
_ABSENT = "–"
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


@dataclass(frozen=True, slots=True)
class Compared:
    """A line of a comparison: what each report says there. `is_heading`: it holds the verdicts of a section."""

    label: str
    cells: tuple[Row, ...]
    is_heading: bool = False


def compared(reports: Sequence[Report]) -> Iterator[Compared]:
    """Every section that one of the reports has, and under it every row that one of them has."""
    for title in dict.fromkeys(section.title for report in reports for section in report.sections):
        absent = Section(title, _ABSENT)
        sections = [next((s for s in report.sections if s.title == title), absent) for report in reports]
        yield Compared(title, tuple(Row(title, section.verdict) for section in sections), is_heading=True)
        for label in dict.fromkeys(row.label for section in sections for row in section.rows):
            yield Compared(label, tuple(_cell(section, label) for section in sections))


def _cell(section: Section, label: str) -> Row:
    """All that a section says under a label, with the worst of its statuses."""
    rows = [row for row in section.rows if row.label == label]
    if not rows:
        return Row(label, _ABSENT)
    worst = min((row.status for row in rows), key=_WORST_FIRST.index)
    return Row(label, "; ".join(row.value for row in rows), worst)

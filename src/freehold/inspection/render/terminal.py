"""The report on a terminal, by rich. Texts are handed over as Text, so that no markup in them is read."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from freehold.inspection.findings import Section, Status
from freehold.inspection.render.plain import plain
from freehold.inspection.render.words import LEGEND, MARKS, compared, condensed, where
from freehold.inspection.report import Report

_LABEL_WIDTH = 24
_STYLES = {
    Status.GOOD: "green",
    Status.PARTIAL: "yellow",
    Status.BAD: "red",
    Status.UNKNOWN: "dim",
    Status.NEUTRAL: "",
}


def show(reports: Sequence[Report], console: Console) -> None:
    """One report on a page, or several beside each other."""
    console.print(_page(reports[0]) if len(reports) == 1 else _comparison(reports))


def _page(report: Report) -> RenderableType:
    parts: list[RenderableType] = [Text(plain(report.name), "bold")]
    for section in report.sections:
        parts += _section(section, report.name)
    return Group(*parts, Text(LEGEND, "dim"))


def _section(section: Section, name: str) -> list[RenderableType]:
    heading = Text.assemble((f"{plain(section.title)}: ", "bold"), (plain(section.verdict), "bold cyan"))
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(width=1)
    table.add_column(width=_LABEL_WIDTH)
    table.add_column(overflow="fold")
    for row in condensed(section):
        style = _STYLES[row.status]
        value = Text(plain(row.value), style)
        if row.evidence and (place := plain(where(row.evidence[0], alone=name))):
            value.append(f"  [{place}]", "dim")
        table.add_row(Text(MARKS[row.status], style), Text(plain(row.label)), value)
    notes = [Padding(Text(plain(note)), (0, 0, 0, 2)) for note in section.notes]
    return [Text(), heading, table, *notes]


def _comparison(reports: Sequence[Report]) -> RenderableType:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for report in reports:
        table.add_column(Text(plain(report.name), "bold"), ratio=1, overflow="fold")
    for line in compared(reports):
        style = "bold" if line.is_heading else ""
        cells = [Text(f"{MARKS[c.status]} {plain(c.value)}".strip(), style or _STYLES[c.status]) for c in line.cells]
        table.add_row(Text(plain(line.label), style), *cells)
    return Group(table, Text(LEGEND, "dim"))

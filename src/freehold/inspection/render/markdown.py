"""The report as Markdown; what is special to Markdown or HTML is escaped in every text that is not ours."""

import re
from collections.abc import Iterator, Sequence

from freehold.inspection.findings import Section
from freehold.inspection.render.plain import plain
from freehold.inspection.render.words import LEGEND, MARKS, compared, condensed, where
from freehold.inspection.report import Report

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$@:-])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape(text: str) -> str:
    text = "".join(_ENTITIES.get(character, character) for character in plain(text))
    return _SPECIAL.sub(r"\\\1", text)


def markdown(reports: Sequence[Report]) -> str:
    """One report, or a table of several."""
    lines = _page(reports[0]) if len(reports) == 1 else _comparison(reports)
    return "\n".join(lines) + "\n"


def _page(report: Report) -> Iterator[str]:
    yield f"# {escape(report.name)}"
    for section in report.sections:
        yield from _section(section, report.name)
    yield f"\n{escape(LEGEND)}"


def _section(section: Section, name: str) -> Iterator[str]:
    yield f"\n## {escape(section.title)}: {escape(section.verdict)}\n"
    if section.rows:
        yield "| | what | finding | where |\n| --- | --- | --- | --- |"
    for row in condensed(section):
        evidence = "; ".join(escape(where(e, alone=name)) for e in row.evidence)
        yield f"| {escape(MARKS[row.status])} | {escape(row.label)} | {escape(row.value)} | {evidence} |"
    yield ""
    for note in section.notes:
        yield f"- {escape(note)}"


def _comparison(reports: Sequence[Report]) -> Iterator[str]:
    yield "| | " + " | ".join(escape(report.name) for report in reports) + " |"
    yield "| --- |" + " --- |" * len(reports)
    for line in compared(reports):
        label = f"**{escape(line.label)}**" if line.is_heading else escape(line.label)
        cells = (f"{escape(MARKS[cell.status])} {escape(cell.value)}".strip() for cell in line.cells)
        yield f"| {label} | " + " | ".join(cells) + " |"
    yield f"\n{escape(LEGEND)}"

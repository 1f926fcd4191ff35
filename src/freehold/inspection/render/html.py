"""The report as one HTML file: no script, nothing fetched, and a policy that forbids both."""

from collections.abc import Iterator, Sequence
from html import escape as html_escape

from freehold.inspection.findings import Row, Section
from freehold.inspection.render.plain import plain
from freehold.inspection.render.words import LEGEND, MARKS, compared, condensed, where
from freehold.inspection.report import Report

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --good: #15803d; --partial: #a16207; --bad: #b91c1c; --unknown: #6b7280; }}
@media (prefers-color-scheme: dark) {{ :root {{ --good: #4ade80; --partial: #facc15; --bad: #f87171; }} }}
body {{ font: 15px/1.4 system-ui, sans-serif; max-width: 50rem; margin: 1.5rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 1.4rem 0 .3rem; }} p {{ margin: .3rem 0; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .15rem .6rem .15rem 0; border-bottom: 1px solid #8883; }}
td {{ overflow-wrap: anywhere; }}
.page td:first-child {{ width: .8rem; }} .page td:nth-child(2) {{ width: 11rem; }}
small {{ color: var(--unknown); }}
.good {{ color: var(--good); }} .partial {{ color: var(--partial); }} .bad {{ color: var(--bad); }}
.unknown {{ color: var(--unknown); }}
</style>
</head>
<body>
"""


def escape(text: str) -> str:
    return html_escape(plain(text), quote=True)


def html(reports: Sequence[Report]) -> str:
    """One report, or a table of several."""
    title = escape(", ".join(report.name for report in reports))
    body = _page(reports[0]) if len(reports) == 1 else _comparison(reports)
    end = f"<p><small>{escape(LEGEND)}</small></p>\n</body>\n</html>\n"
    return "\n".join([_HEAD.format(title=title), *body, end])


def _page(report: Report) -> Iterator[str]:
    yield f"<h1>{escape(report.name)}</h1>"
    for section in report.sections:
        yield from _section(section, report.name)


def _section(section: Section, name: str) -> Iterator[str]:
    yield f"<h2>{escape(section.title)}: {escape(section.verdict)}</h2>"
    yield '<table class="page">'
    for row in condensed(section):
        yield _row(row, name)
    yield "</table>"
    for note in section.notes:
        yield f"<p>{escape(note)}</p>"


def _row(row: Row, name: str) -> str:
    places = [(escape(where(evidence, alone=name)), escape(evidence.quote)) for evidence in row.evidence]
    cited = "; ".join(f'<span title="{quote}">{place}</span>' for place, quote in places if place)
    return (
        f'<tr><td class="{row.status}">{escape(MARKS[row.status])}</td><td>{escape(row.label)}</td>'
        f'<td><span class="{row.status}">{escape(row.value)}</span> <small>{cited}</small></td></tr>'
    )


def _comparison(reports: Sequence[Report]) -> Iterator[str]:
    yield "<table><tr><th></th>" + "".join(f"<th>{escape(report.name)}</th>" for report in reports) + "</tr>"
    for line in compared(reports):
        tag = "th" if line.is_heading else "td"
        cells = "".join(
            f'<{tag} class="{c.status}">{escape(MARKS[c.status])} {escape(c.value)}</{tag}>' for c in line.cells
        )
        yield f"<tr><{tag}>{escape(line.label)}</{tag}>{cells}</tr>"
    yield "</table>"

"""What a card says is inert in every output: no escape reaches a terminal, no tag a browser, no link a Markdown page."""

import html.parser
import json
import re
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from freehold.inspection.render.html import html as as_html
from freehold.inspection.render.markdown import markdown
from freehold.inspection.render.plain import plain
from freehold.inspection.render.terminal import show
from freehold.inspection.report import inspect

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m<script>alert(1)</script><img src=x onerror=alert(1)>"
    "[bold red]rich[/bold red] [x](javascript:alert(1)) | `a` \u202egnp.exe \u200b & \"quoted\" 'single'"
)


@pytest.fixture
def report(tmp_path):
    folder = tmp_path / "model <b>"
    folder.mkdir()
    front = json.dumps(HOSTILE)
    (folder / "README.md").write_text(
        f"---\nlicense: {front}\ndatasets: [{front}]\n---\nTraining code at https://e.org {HOSTILE}\n"
    )
    (folder / "evidence.yaml").write_text(
        f"asserted_by: {front}\nclaims: {{evaluation_code: {{status: present, licence: {front}, note: {front}}}}}"
    )
    (folder / "model\x1b[31m<i>.safetensors").write_bytes(b"")
    return inspect(folder)


def terminal(reports):
    stream = StringIO()
    show(reports, Console(file=stream, width=150, force_terminal=True, color_system=None))
    return stream.getvalue()


def everywhere(reports):
    dicts = json.dumps([report.to_dict() for report in reports], ensure_ascii=False, indent=2)
    short = "\n".join(f"{row.label}: {row.value}" for report in reports for row in report.summary().rows)
    return {
        "short": short,
        "terminal": terminal(reports),
        "md": markdown(reports),
        "html": as_html(reports),
        "json": dicts,
    }


def test_controls_are_written_out(report):
    for reports in ([report], [report, report]):
        for name, text in everywhere(reports).items():
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text), name
            assert r"\x1b" in text or name == "short", name


def test_rich_markup_is_text(report):
    assert "[bold red]" in terminal([report])


def test_html_has_no_tag_but_ours(report):
    seen = set()

    class Tags(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            seen.update({tag}, (name for name, _ in attributes))

    for reports in ([report], [report, report]):
        page = as_html(reports)
        Tags().feed(page)
        assert "&lt;script&gt;" in page
    elements = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "table",
        "tr",
        "th",
        "td",
        "span",
        "br",
        "p",
        "small",
    }
    attributes = {"lang", "charset", "http-equiv", "content", "name", "class", "title"}
    assert seen <= elements | attributes
    assert "default-src 'none'" in as_html([report])


def test_markdown_has_no_html_link_or_broken_row(report):
    text = markdown([report])
    assert "<" not in text
    assert not re.search(r"(?<!\\)\]\(", text)
    rows = [line for line in text.split("\n") if line.startswith("| ")]
    assert rows and {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


def test_plain_keeps_what_people_write():
    assert plain("Tülu 3  – 文心\n4.5") == "Tülu 3 – 文心 4.5"
    assert plain("a\x1b[0m\u202e") == r"a\x1b[0m\u202e"


def test_several_are_compared(tmp_path):
    for name, licence in (("one", "mit"), ("two", "llama3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(
            f"---\nlicense: {licence}\n---\nWeights: https://huggingface.co/a/b\n"
        )
    reports = [inspect(tmp_path / "one"), inspect(tmp_path / "two")]
    rows = [line for line in markdown(reports).split("\n") if "Licence of the weights" in line]
    assert rows == [r"| Licence of the weights | \+ MIT | \- Meta Llama 3 Community License\: not an open licence |"]
    assert "open\\-weight with use restrictions" in markdown(reports)


@settings(max_examples=20, deadline=None)
@given(
    st.text(max_size=400),
    st.dictionaries(st.sampled_from(["license", "datasets", "tags", "base_model"]), st.text(max_size=40)),
)
def test_no_card_breaks_a_report(tmp_path_factory, text, fields):
    folder = tmp_path_factory.mktemp("card")
    (folder / "README.md").write_bytes(f"---\n{json.dumps(fields)}\n---\n{text}".encode("utf-8", "replace"))
    for name, page in everywhere([inspect(folder)]).items():
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", page), name

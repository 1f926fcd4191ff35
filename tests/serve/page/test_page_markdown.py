"""Markdown on the page: what it becomes, that it grows into the same as it comes, and that nothing in it acts."""

import random
import re

import pytest
from page_server import QWEN, Refusal

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

# Draws a text, at once or in pieces, and tells the elements without what they look like.
DRAW = """async (pieces) => {
    const { Markdown } = await import("/page/markdown.js");
    const root = document.createElement("div");
    const view = new Markdown(root);
    for (const piece of pieces) { view.append(piece); view.draw(); }
    view.finish();
    for (const button of root.querySelectorAll("button")) button.remove();
    for (const node of root.querySelectorAll("*"))
        for (const { name } of [...node.attributes]) if (name !== "href" && name !== "start") node.removeAttribute(name);
    return root.innerHTML;
}"""


def code(language, text):
    return f"<div><div><span>{language}</span></div><pre><code>{text}</code></pre></div>"


CASES = [
    ("# One\n## Two ##\ntext", "<h2>One</h2><h3>Two</h3><p>text</p>"),
    ("#hashtag\n\n####### seven", "<p>#hashtag</p><p>####### seven</p>"),
    ("one\ntwo\n\nthree", "<p>one<br>two</p><p>three</p>"),
    ("**bold** *it* ***both*** __b__ _i_ ~~no~~", "<p><strong>bold</strong> <em>it</em> <em><strong>both</strong></em> <strong>b</strong> <em>i</em> <del>no</del></p>"),
    ("snake_case_name 2 * 3 * 4 **open", "<p>snake_case_name 2 * 3 * 4 **open</p>"),
    ("*a **b*** and **a *b***", "<p><em>a <strong>b</strong></em> and <strong>a <em>b</em></strong></p>"),
    (r"\*not\* \`code\` C:\dir", r"<p>*not* `code` C:\dir</p>"),
    ("`a*b*` ``x`y`` `open", "<p><code>a*b*</code> <code>x`y</code> `open</p>"),
    ("[a *b*](https://x.org/p?q=1)", '<p><a href="https://x.org/p?q=1">a <em>b</em></a></p>'),
    ("https://x.org/a_b_c. <http://y.org>", '<p><a href="https://x.org/a_b_c">https://x.org/a_b_c</a>. <a href="http://y.org/">http://y.org</a></p>'),
    ("array[0] and [x] and [y](", "<p>array[0] and [x] and [y](</p>"),
    ("![a cat](https://x.org/c.png)", '<p><a href="https://x.org/c.png">Image: a cat</a></p>'),
    ("a &lt; b &amp;&amp; c &copy;", "<p>a &lt; b &amp;&amp; c &amp;copy;</p>"),
    ("- a\n- b\n  - c\n  - d\n- e", "<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li><li><p>d</p></li></ul></li><li><p>e</p></li></ul>"),
    ("3. a\n4. b\n\n   more", '<ol start="3"><li><p>a</p></li><li><p>b</p><p>more</p></li></ol>'),
    ("1. a\n   ```\n   x\n\n   y\n   ```\n2. b", f"<ol><li><p>a</p>{code('text', 'x&NL;&NL;y')}</li><li><p>b</p></li></ol>"),
    ("- [ ] todo\n- [x] done", "<ul><li><p>☐ todo</p></li><li><p>☑ done</p></li></ul>"),
    ("in 1984. Not a list\n1984. is one", "<p>in 1984. Not a list<br>1984. is one</p>"),
    ("```python\nx = 1\n\n# no heading\n```\nafter", code("python", "x = 1&NL;&NL;# no heading") + "<p>after</p>"),
    ("~~~\n```\n~~~", code("text", "```")),
    ("```js\nopen to the end", code("js", "open to the end")),
    ("> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"),
    ("a\n\n---\n* * *\nb", "<p>a</p><hr><hr><p>b</p>"),
    ("| a | b |\n|:--|--:|\n| 1 | `x\\|y` |\n| 2 |\n\nend", "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>x|y</code></td></tr><tr><td>2</td></tr></tbody></table></div><p>end</p>"),
    ("a | b\nno rule", "<p>a | b<br>no rule</p>"),
    ("$a_1 * b_2 * c$ costs $5 and $6", "<p><span>$a_1 * b_2 * c$</span> costs $5 and $6</p>"),
    (r"\(x_1\) and \[ y_2 \]", r"<p><span>\(x_1\)</span> and <span>\[ y_2 \]</span></p>"),
    ("$$\nx_1 = *y*\n- z\n$$\nend", "<p>$$\nx_1 = *y*\n- z\n$$</p><p>end</p>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def draw(browser, server):
    from page_browser import opened

    with opened(browser, server.url) as tab:
        yield lambda *pieces: tab.page.evaluate(DRAW, list(pieces))


@pytest.mark.parametrize(("source", "expected"), CASES, ids=[case[0].splitlines()[0][:20] for case in CASES])
def test_markdown(draw, source, expected):
    assert draw(source) == expected.replace("&NL;", "\n")


def test_grows_into_the_same_whatever_the_pieces(draw):
    document = "\n\n".join(source for source, _ in CASES)
    whole = draw(document)
    chance = random.Random(5)
    for longest in (1, 3, 17):
        pieces, at = [], 0
        while at < len(document):
            size = chance.randint(1, longest)
            pieces.append(document[at : at + size])
            at += size
        assert draw(*pieces) == whole


ODD_TEXTS = [
    "*" * 20_001, "[" * 20_000, "`a``b" * 5000, ">" * 20_000, "**a " * 5000, "$ " * 10_000, "\\(" * 9000, "![" * 9000,
    "<" * 20_000, "# " + " " * 30_000 + "x", "```" + " " * 30_000 + "`", "_a*" * 6000, "|" * 9000 + "\n" + "|-" * 9000,
    "- " * 9000 + "a", "".join("  " * depth + "- x\n" for depth in range(200)),
]  # fmt: skip


def test_odd_texts_are_shown_whole(draw):
    for text in ODD_TEXTS:
        html = draw(text)
        for letter in "abx":
            words = re.sub(r"<[^>]*>", "", html)
            assert words.count(letter) == text.count(letter), text[:10]


ATTACKS = [
    "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>",
    "<iframe src='javascript:window.hit=1'></iframe><svg onload='window.hit=1'>",
    "[click](javascript:window.hit=1) [x](JaVaScRiPt:window.hit=1) [y](data:text/html,<script>1</script>)",
    "[z](https://ok.example/\"onmouseover=\"window.hit=1) <javascript:window.hit=1> ![i](javascript:window.hit=1)",
    "![track](https://evil.example/pixel.png) <img src='https://evil.example/p'>",
    "```\"><script>window.hit=1</script>\n</code></pre><script>window.hit=1</script>\n```",
    "| <script>window.hit=1</script> |\n|--|\n| <img src=x onerror=window.hit=1> |",
    "&lt;script&gt;window.hit=1&lt;/script&gt; <style>*{display:none}</style><base href='https://evil.example/'>",
]  # fmt: skip
EVIL_NAME = "<img src=x onerror='window.hit=1'>"


def test_nothing_in_a_reply_acts(tab, scripted):
    calls = [{"tool_calls": [{"index": 0, "id": "c", "function": {"name": EVIL_NAME, "arguments": EVIL_NAME}}]}]
    scripted.models = [QWEN | {"id": EVIL_NAME, "architecture": EVIL_NAME, "licence": {"general.license": EVIL_NAME}}]
    scripted.answer = lambda body: [
        {"reasoning_content": EVIL_NAME},
        "\n\n".join(ATTACKS),
        *calls,
        {"finish_reason": "tool_calls"},
    ]
    scripted.summary = {"rows": [{"label": EVIL_NAME, "value": f"of the card: {ATTACKS[0]}", "status": "bad"}]}
    tab.refusals.add(400)
    tab.open()
    page = tab.page
    tab.ask(EVIL_NAME)
    page.locator("summary").first.click()
    page.get_by_role("button", name="About this model").click()
    expect(page.locator("#about")).to_contain_text(EVIL_NAME)
    expect(page.locator("#about")).to_contain_text(f"of the card: {ATTACKS[0]}")
    assert page.locator("#about :is(script, img)").count() == 0
    page.keyboard.press("Escape")
    scripted.answer = lambda body: Refusal(400, EVIL_NAME)
    expect(tab.ask("Again").locator(".error")).to_contain_text(EVIL_NAME)
    expect(page.locator(".reply .markdown").first).to_contain_text("<script>window.hit = 1</script>")
    assert page.evaluate("window.hit") is None
    assert page.locator("#turns :is(script, img, iframe, style, base, object, embed)").count() == 0
    assert page.locator("#turns svg[onload]").count() == 0
    links = page.locator("#turns a")
    schemes = {link.get_attribute("href").split(":")[0] for link in links.all()}
    assert schemes == {"https"}
    for link in links.all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
        assert link.get_attribute("target") == "_blank"
        assert link.get_attribute("onmouseover") is None


def test_right_to_left(tab, scripted):
    scripted.answer = lambda body: ["مرحبا بالعالم\n\n- نعم\n- لا\n\nHello\n\n```\nx = 1\n```\n"]
    reply = tab.ask("قل مرحبا")
    blocks = reply.locator(".markdown > *").all()
    assert [block.evaluate("node => getComputedStyle(node).direction") for block in blocks] == [
        "rtl",
        "rtl",
        "ltr",
        "ltr",
    ]
    said = tab.page.locator(".said-text")
    assert said.evaluate("node => getComputedStyle(node).direction") == "rtl"

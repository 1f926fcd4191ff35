"""The chat page for everybody: by keyboard, to a screen reader, on a phone, in the dark, and over long replies."""

import threading

import pytest
from page_server import QWEN, SMALL

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from page_browser import opened  # noqa: E402

expect = playwright.expect


def test_keyboard_alone(tab, scripted):
    page = tab.page
    page.evaluate("document.body.tabIndex = -1, document.body.focus()")
    names = []
    for _ in range(9):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        names.append(focused.evaluate("node => node.ariaLabel || node.labels?.[0]?.innerText || node.innerText.trim()"))
        assert focused.evaluate("node => node.matches(':focus-visible') && node.getBoundingClientRect().top >= 0")
    assert names == [
        "Skip to the message field",
        "Model",
        "About this model",
        "Compare",
        "New chat",
        "Settings",
        "Conversation",
        "Message",
        "Send",
    ]
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Two")
    page.keyboard.press("Enter")
    tab.ended()
    assert scripted.requests[0]["messages"][0]["content"] == "One\nTwo"
    expect(page.locator("#message")).to_have_value("")


def test_screen_readers_hear_blocks_not_tokens(tab, scripted):
    words = ["One", "two", "three", "four", "five.\n\nSix", "seven", "eight.\n\n-", "nine\n-", "ten\n"]
    scripted.answer = lambda body: [word + " " for word in words]
    tab.ask("Hello")
    said = tab.page.locator("#announcer p")
    expect(said).to_have_text(["thinker answers.", "One two three four five.", "Six seven eight.", "nineten"])
    assert tab.page.locator("#announcer").get_attribute("aria-live") == "polite"


def test_dark_mode_follows_the_system_and_the_switch(browser, scripted):
    def background(tab):
        red = tab.page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
        return "dark" if int(red) < 60 else "light"

    with opened(browser, scripted.url, color_scheme="dark") as tab:
        assert background(tab) == "dark"
        tab.open_settings()
        tab.page.get_by_role("radio", name="Light").check()
        assert background(tab) == "light"
        tab.page.reload()
        assert background(tab) == "light"
        tab.open_settings()
        tab.page.get_by_role("radio", name="System").check()
        assert background(tab) == "dark"


def test_phone(browser, scripted):
    wide = "| a long head | another one | a third | and a fourth |\n|--|--|--|--|\n| 1 | 2 | 3 | 4 |\n\n"
    scripted.models = [QWEN | {"id": "a-model-with-a-very-long-name-q4_k_m-and-more"}, SMALL]
    scripted.answer = lambda body: [wide, "```\n", "x" * 200, "\n```\n\n", "https://example.com/" + "y" * 200]
    with opened(browser, scripted.url, viewport={"width": 360, "height": 720}, has_touch=True) as tab:
        page = tab.page
        page.get_by_role("button", name="Compare").click()
        tab.say("z" * 200)
        tab.ended(0), tab.ended(1)
        boxes = [lane.bounding_box() for lane in page.locator(".lane").all()]
        assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("document.getElementById('scroller').scrollWidth <= 360")
        for button in page.locator("header.bar button, #send").all():
            box = button.bounding_box()
            assert box["width"] >= 36 and box["height"] >= 36 and 0 <= box["x"] <= 360 - box["width"]
        tab.open_settings()
        box = page.locator("#settings").bounding_box()
        assert (box["x"], box["width"]) == (0, 360)


def test_reduced_motion(browser, scripted):
    scripted.answer = lambda body: ["A", threading.Event()]
    with opened(browser, scripted.url, reduced_motion="reduce") as tab:
        tab.say("Hello")
        figures = tab.page.locator(".running .figures")
        assert figures.evaluate("node => getComputedStyle(node, '::before').animationName") == "none"


def test_scrolling_does_not_fight_the_reader(tab, scripted):
    gates = [threading.Event() for _ in range(3)]
    more = "A paragraph that takes some room.\n\n" * 30
    scripted.answer = lambda body: [more, gates[0], more, gates[1], more, gates[2], "The end."]
    top = "document.getElementById('scroller').scrollTop"
    below = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.getElementById('scroller'))"
    paragraphs = tab.page.locator(".reply .markdown p")
    tab.say("Go")
    expect(paragraphs).to_have_count(30)
    assert tab.page.evaluate(below) < 5
    tab.page.mouse.move(600, 400)
    tab.page.mouse.wheel(0, -500)
    expect(tab.page.locator("#to-end")).to_be_visible()
    before = tab.page.evaluate(top)
    gates[0].set()
    expect(paragraphs).to_have_count(60)
    assert tab.page.evaluate(top) == before
    tab.page.get_by_role("button", name="Latest").click()
    gates[1].set()
    expect(paragraphs).to_have_count(90)
    assert tab.page.evaluate(below) < 5
    expect(tab.page.locator("#to-end")).to_be_hidden()
    gates[2].set()
    tab.ended()


def test_long_reply_is_appended_to_not_made_anew(tab, scripted):
    words = [f"word{i} " if i % 40 else f"\n\n{'- ' if i % 80 else ''}**p{i}** " for i in range(10_000)]
    gate = threading.Event()
    scripted.answer = lambda body: [*words[:200], gate, *words[200:]]
    tab.say("Go")
    expect(tab.page.locator(".reply .markdown")).to_contain_text("word199")
    tab.page.evaluate("""() => {
        window.first = document.querySelector(".markdown > :nth-child(2)");
        window.replaced = 0;
        new MutationObserver((records) => {
            for (const { removedNodes } of records) for (const node of removedNodes)
                if (node.nodeType === 1 && node.parentNode !== document.querySelector(".markdown > :last-child")) replaced++;
        }).observe(document.querySelector(".markdown"), { childList: true });
    }""")
    gate.set()
    tab.ended()
    assert tab.page.evaluate("first.isConnected && first === document.querySelector('.markdown > :nth-child(2)')")
    assert tab.page.locator(".reply .markdown > *").count() == 250
    assert tab.page.evaluate("replaced") <= 250  # a paragraph that turned out to be a list, once a block at most

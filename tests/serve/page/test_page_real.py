"""The page before a real `freehold serve` and a real model."""

import re

import pytest
from page_server import KEY

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect


@pytest.fixture(scope="module")
def tab(browser, real_url):
    from page_browser import Tab

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = Tab(context.new_page(), real_url)
    tab.refusals.add(401)
    tab.page.goto(real_url)
    yield tab
    context.close()


def test_asks_for_the_key_and_answers(tab):
    page = tab.page
    expect(page.locator("#key-error")).to_have_text("a valid API key is needed (Authorization: Bearer …)")
    page.locator("#key").fill(KEY)
    page.keyboard.press("Enter")
    expect(page.locator(".picker select").first).to_have_value("smollm2-135m-q4_1", timeout=30_000)
    expect(page.locator(".facts").first).to_have_text("8,192 context · Q4_1 · apache-2.0", timeout=30_000)
    reply = tab.ask("What is the capital of France? Answer in one sentence.")
    expect(reply.locator(".markdown")).to_contain_text("Paris")
    assert page.evaluate("sessionStorage['freehold-key']") == KEY
    assert page.evaluate("JSON.stringify(localStorage)") == "{}"
    tab.check()


def test_streamed_reply_is_the_one_that_the_api_gives(tab):
    page = tab.page
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").first.fill("3")
    page.get_by_label("Max tokens").first.fill("60")
    page.keyboard.press("Escape")
    with page.expect_request("**/v1/chat/completions") as asked:
        reply = tab.ask("Count to five in words.")
    body = asked.value.post_data_json | {"stream": False, "stream_options": None}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = page.request.post(tab.url + "v1/chat/completions", data=body, headers=headers).json()
    usage, text = answer["usage"], answer["choices"][0]["message"]["content"]
    assert reply.locator(".markdown").inner_text().split() == text.split()
    figures = reply.locator(".figures").inner_text()
    assert re.match(rf"{usage['completion_tokens']} tokens · [\d,.]+ tokens/s · first after [\d.]+ m?s · ", figures)
    assert f"prompt {usage['prompt_tokens']}" in figures
    tab.check()


def test_two_replies_side_by_side_are_the_same_bits(tab):
    page = tab.page
    page.get_by_role("button", name="New chat").click()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Settings").click()
    for lane in (0, 1):
        page.get_by_label("Seed").nth(lane).fill("7")
        page.get_by_label("Max tokens").nth(lane).fill("40")
    page.keyboard.press("Escape")
    tab.say("Tell me a story about a lighthouse.")
    first, second = tab.ended(0), tab.ended(1)
    assert first.locator(".markdown").inner_text() == second.locator(".markdown").inner_text() != ""
    for reply in (first, second):
        expect(reply.locator(".figures")).to_contain_text("cut off at the token limit")
    page.get_by_role("button", name="Compare").click()
    tab.check()


def test_page_is_served_under_its_policy(tab):
    for path in ("", "page/main.js", "page/page.css"):
        headers = tab.page.request.get(tab.url + path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-cache"

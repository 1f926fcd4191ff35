"""The chat page in a headless browser, watched for errors and for requests that leave its server."""

from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REFUSED = "Failed to load resource: the server responded with a status of "  # the browser's own words for a 4xx


class Tab:
    """One open page. `refusals`: statuses that the test expects the server to answer with."""

    def __init__(self, page: Page, url: str):
        self.page, self.url = page, url
        self.refusals: set[int] = set()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self._listeners = {"console": self._note, "pageerror": self._fail, "request": self._watch}
        for name, listener in self._listeners.items():
            page.on(name, listener)
        page.set_default_timeout(10_000)

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator("#pickers option").first.wait_for(state="attached")

    def open_settings(self) -> None:
        self.page.get_by_role("button", name="Settings").click()

    def say(self, text: str) -> None:
        self.page.locator("#message").fill(text)
        self.page.keyboard.press("Enter")

    def ask(self, text: str) -> Any:
        """Say it, wait for the end of the reply, and return its element."""
        self.say(text)
        return self.ended()

    def ended(self, lane: int = 0) -> Any:
        """The last reply of the last turn, when it is over."""
        reply = self.page.locator(".turn").last.locator(".lane").nth(lane).locator(".reply").last
        expect(reply).to_have_attribute("aria-busy", "false", timeout=30_000)
        return reply

    def check(self) -> None:
        assert not self.errors
        assert not self.elsewhere

    def forget(self) -> None:
        """What the page remembers beyond itself, and this tab."""
        self.page.evaluate("localStorage.clear(), sessionStorage.clear()")
        for name, listener in self._listeners.items():
            self.page.remove_listener(name, listener)

    def _fail(self, error: Any) -> None:
        self.errors.append(str(error))

    def _note(self, message: Any) -> None:
        expected = any(message.text.startswith(f"{REFUSED}{status}") for status in self.refusals)
        if message.type in ("error", "warning") and not expected:
            self.errors.append(message.text)

    def _watch(self, request: Any) -> None:
        if not request.url.startswith((self.url, f"blob:{self.url}")):
            self.elsewhere.append(request.url)


@contextmanager
def opened(browser: Browser, url: str, **options: Any):
    """A tab with nothing remembered; at its end nothing may have gone wrong or elsewhere."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    tab = Tab(context.new_page(), url)
    try:
        tab.open()
        yield tab
        tab.check()
    finally:
        context.close()

"""A headless browser, a server that says what a test has written, and a real one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def browser():
    """Ends with its module: while it is there, the thread has an event loop that others must not find."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    from page_browser import FLAGS

    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def server():
    from page_server import PageServer

    server = PageServer()
    yield server
    server.close()


@pytest.fixture
def scripted(server):
    server.reset()
    return server


@pytest.fixture(scope="module")
def shared_page(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context.new_page()
    context.close()


@pytest.fixture
def tab(shared_page, scripted):
    """The page of the scripted server, opened anew with nothing remembered."""
    from page_browser import Tab

    tab = Tab(shared_page, scripted.url)
    tab.open()
    yield tab
    tab.check()
    tab.forget()


@pytest.fixture(scope="module")
def real_url(smollm):
    """A `freehold serve` process with a real model, which asks for KEY."""
    from page_server import KEY

    command = [Path(sys.executable).with_name("freehold"), "serve", smollm, "--port", "0", "--api-key", KEY]
    process = subprocess.Popen([*command, "--log-level", "error"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.readline()
    url = re.search(r"http://\S+", said)
    if not url:
        process.kill()
        pytest.fail(f"the server did not start: {said}{process.stderr.read()}")
    yield url[0] + "/"
    process.terminate()
    process.communicate(timeout=30)

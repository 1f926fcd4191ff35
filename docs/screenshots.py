"""Takes the pictures in docs/images, of the chat page and of a report: python docs/screenshots.py MODEL SECOND_MODEL

Needs chromium and the development group. What the models answer is theirs: nothing in the pictures is written by hand.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1120, "height": 880}
CODE = "Write a short Python function that checks whether a word is a palindrome."
USE = "commercial service, 2M monthly users, EU"
QUESTION = "Name three things to pack for a day in the mountains, and say why."


def main(models: list[str]) -> None:
    freehold = Path(sys.executable).with_name("freehold")
    report(freehold, models[0])
    command = [freehold, "serve", *models, "--port", "0", "--log-level", "error"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = re.search(r"http://\S+", server.stderr.readline())
        assert url, "the server did not start"
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            picture(chromium, url[0], "page.png", "light", CODE, compare=False)
            picture(chromium, url[0], "page-compare.png", "dark", QUESTION, compare=True)
            chromium.close()
    finally:
        server.terminate()
        server.wait()


def report(freehold: Path, model: str) -> None:
    """The report on a model as one HTML file, as high as it is."""
    command = [freehold, "inspect", model, "--for", USE, "--html"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 820, "height": 400}, color_scheme="light")
        page.set_content(done.stdout)
        page.screenshot(path=IMAGES / "inspect.png", full_page=True)
        chromium.close()
    with Image.open(IMAGES / "inspect.png") as image:
        image.convert("RGB").quantize(256).save(IMAGES / "inspect.png", optimize=True)  # less than half of the bytes


def picture(chromium: Browser, url: str, name: str, scheme: str, question: str, *, compare: bool) -> None:
    page = chromium.new_page(viewport=SIZE, color_scheme=scheme)
    page.goto(url)
    page.locator(".facts", has_text="context").first.wait_for()
    if compare:
        page.get_by_role("button", name="Compare").click()
    sample(page, seed="1")
    page.locator("#message").fill(question)
    page.keyboard.press("Enter")
    page.locator(".reply[aria-busy=false]").nth(int(compare)).wait_for(timeout=120_000)
    page.mouse.move(0, SIZE["height"] / 2)
    page.screenshot(path=IMAGES / name)
    page.close()


def sample(page: Page, seed: str) -> None:
    page.get_by_role("button", name="Settings").click()
    for field in page.get_by_label("Seed").all():
        if field.is_visible():
            field.fill(seed)
    page.keyboard.press("Escape")


if __name__ == "__main__":
    main(sys.argv[1:])

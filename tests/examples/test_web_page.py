"""The page of web/web_server.py in Chromium: on one loop, for each start of it takes seconds."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.example_support import TIMEOUT, running


@pytest.fixture
def page(require_program: Callable[[str], str]) -> Iterator[Page]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=require_program("chromium"),
            # Chromium refuses to run with it as root, as in CI.
            args=["--no-sandbox"],
        ) as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT * 1000)
        expect.set_options(timeout=TIMEOUT * 1000)
        yield page


INLINE_SCRIPT = """
const script = document.createElement("script");
script.textContent = "window.ran = true";
document.head.append(script);
"""
NUMBER_OF_REQUESTS = "+document.querySelector('#requests').textContent.replace(',', '')"


def test_the_page_is_alive(page: Page, tmp_path: Path) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    # What the Content-Security-Policy forbids and files that are not there are told here, too.
    page.on("console", lambda message: errors.append(message.text))
    state, greeting, line = map(page.locator, ("#state", "#greeting", "#rate .line"))
    with running("web/web_server", "tcp://127.0.0.1:0", loop="uvloop", folder=tmp_path) as web:
        url = f"http://127.0.0.1:{web.ports[0]}/"
        page.goto(url)
        expect(state).to_have_text("live")
        expect(page.locator("#events")).to_have_text(f"{url}events")
        expect(page.locator("#active output")).to_have_text(re.compile("^[1-9]"))
        # A line from second to second.
        expect(line).to_have_attribute("d", re.compile("^M.*L"))

        requests = NUMBER_OF_REQUESTS
        before, drawn = page.evaluate(requests), line.get_attribute("d")
        page.click("text=Send 500 requests")
        expect(greeting).to_have_text("500 answers have come.")
        page.wait_for_function(f"before => {requests} >= before + 500", arg=before)
        # The graph has grown, with a new scale, and goes on moving.
        page.wait_for_function("document.querySelector('#rate .scale span').textContent > 10")
        assert line.get_attribute("d") != drawn
        moved = page.locator("#rate g").get_attribute("transform")
        expect(page.locator("#rate g")).not_to_have_attribute("transform", moved)

        page.fill("#name", "<b>Ada</b>")
        page.click("text=Say hello")
        expect(greeting).to_have_text("Hello <b>Ada</b>, from aiosocketserver")
        assert errors == []
        # It lives with a policy that is in force.
        with page.expect_console_message(lambda it: "Content Security Policy" in it.text):
            page.evaluate(INLINE_SCRIPT)
        assert page.evaluate("window.ran") is None
    expect(state).to_have_text("reconnecting")
    bind = url.removesuffix("/").replace("http", "tcp")
    with running("web/web_server", bind, loop="uvloop", folder=tmp_path) as web:
        expect(state).to_have_text("live")
        page.wait_for_function(f"before => {requests} < before", arg=before)

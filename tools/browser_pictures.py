"""Take the pictures of pages in docs/pictures: `browser_pictures.py [NAME...]`; all without a name.

Each shows a program of examples/ at work, in a Chromium that is installed. A function below
with the name of the picture makes it.
"""

import contextlib
import http.client
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "pictures"


@contextlib.contextmanager
def running(*command: str) -> Generator[int]:
    """Run a program of examples/ that serves on a port of its choice; the port."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process, process.stderr:
        try:
            for line in process.stderr:
                if match := re.search(r"serving .*://127\.0\.0\.1:(\d+) ", line):
                    break
            else:
                raise SystemExit(f"{command} does not serve")
            # A pipe that nobody reads would stop it.
            rest = threading.Thread(target=process.stderr.read)
            rest.start()
            yield int(match[1])
        finally:
            process.terminate()


def visit(port: int, seconds: float, pause: float) -> None:
    """Ask an HTTP server again and again, on one connection."""
    end = time.monotonic() + seconds
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        while time.monotonic() < end:
            connection.request("GET", "/hello")
            connection.getresponse().read()
            time.sleep(pause)


def web(browser: Browser, path: Path) -> None:
    """The page of the web server after a minute with visitors who come and go."""
    chance = random.Random(8)
    with running("examples/web/web_server.py", "tcp://127.0.0.1:8080") as port:
        page = browser.new_page(viewport={"width": 1200, "height": 750}, color_scheme="light")
        page.goto(f"http://127.0.0.1:{port}/")
        with ThreadPoolExecutor(40) as visitors:
            for second in range(63):
                for _ in range(chance.choice((0, 0, 1, 2, 4) if second < 35 else (0, 1, 1, 2))):
                    visitors.submit(visit, port, chance.uniform(1, 9), chance.uniform(0.01, 0.08))
                if second == 46:
                    page.click("text=Send 500 requests")
                # Events of the page are waited for as well.
                page.wait_for_timeout(1000)
            page.fill("#name", "Ada")
            page.press("#name", "Enter")
            page.wait_for_selector("text=Hello Ada")
            page.locator("#name").blur()
            page.mouse.move(0, 0)
            page.screenshot(path=path)


PICTURES: dict[str, Callable[[Browser, Path], None]] = {"web": web}


def main(names: list[str]) -> int:
    if unknown := set(names) - PICTURES.keys():
        print(f"no such pictures: {', '.join(sorted(unknown))}\n\n{__doc__}", file=sys.stderr)
        return 2
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is not installed", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with (
        sync_playwright() as playwright,
        # Chromium refuses to run as root with its sandbox.
        playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"]) as browser,
    ):
        for name in names or PICTURES:
            PICTURES[name](browser, FOLDER / f"{name}.png")
            print(f"docs/pictures/{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

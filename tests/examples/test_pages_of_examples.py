"""The pages of docs/examples: what is typed is typed, and quotes and pictures are compared."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.page_support import ROOT, Page, entries
from tests.walk_support import follow_in_checkout
from tools.terminal_pictures import terminals

EXAMPLES = ROOT / "examples"

PAGES = {
    path.stem: Page(path.relative_to(ROOT).as_posix())
    for path in sorted((ROOT / "docs" / "examples").glob("*.md"))
    if path.stem != "README"
}
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
for each in PAGES.values():
    each.executes()

of_each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def test_each_example_has_a_page_with_a_picture() -> None:
    programs = {path.stem for path in EXAMPLES.glob("*.py")}
    programs |= {path.parent.name for path in EXAMPLES.glob("*/*.py")}
    assert PAGES.keys() == programs
    for name, page in PAGES.items():
        assert re.search(rf"!\[.+\]\(\.\./pictures/{name}\.(?:svg|png)\)", page.text), name


@of_each_page
def test_what_is_typed_shows_what_the_page_has(
    page: Page, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    for program in programs_on(page) - {"python"}:
        require_program(program)
    follow_in_checkout(page, tmp_path)


def programs_on(page: Page) -> set[str]:
    return {
        program
        for block in page.all_blocks
        if block.language == "console"
        for entry in entries(block)
        for program in re.findall(r"(?:^|\| )([\w-]+)", entry.command or "")
    }


@of_each_page
def test_the_rest_of_the_code_is_quoted_from_the_program(page: Page) -> None:
    links = re.findall(r"\]\((\.\./\.\./examples/[^)]+)\)", page.text)
    source = "".join((ROOT / page.name).parent.joinpath(link).read_text() for link in links)
    # With a title a block is a file of its own, which the commands use.
    quotes = [
        block for block in page.all_blocks if block.language != "console" and block.title is None
    ]
    assert quotes
    for quote in quotes:
        assert any(
            textwrap.indent(quote.text, indent * " ") in source for indent in range(0, 20, 4)
        )


@pytest.mark.parametrize("path", PICTURES, ids=[path.stem for path in PICTURES])
def test_the_picture_has_the_same_text_and_loads_nothing(path: Path) -> None:
    svg = ElementTree.parse(path)
    in_picture = "".join(text.text or "" for text in svg.findall(".//{*}text"))
    on_page = "".join(
        f"Terminal {number}" + "".join(line.plain for line in terminal)
        for number, terminal in enumerate(terminals(PAGES[path.stem]), 1)
    )
    assert without_spaces(in_picture) == without_spaces(on_page)
    assert not re.search(r"(?:url\(|href=|src=)[\"']?[^#\"']|@import", path.read_text())


def without_spaces(text: str) -> str:
    # Of which the picture has others, and at other places, where a line was broken.
    return "".join(text.split())

"""README.md and the pages in docs/: no code that is not executed, no link that leads nowhere."""

import importlib
import re

from tests.page_support import ROOT, Page, executed

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_code_block_is_executed_by_a_test() -> None:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "tests.page_support" in path.read_text():
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    blocks = [
        block for path in PAGES for block in Page(path.relative_to(ROOT).as_posix()).all_blocks
    ]
    assert blocks
    assert [str(block) for block in blocks if block not in executed] == []


def test_every_fence_is_that_of_a_block() -> None:
    # What the expression for blocks did not find would not be missed above.
    for path in PAGES:
        page = Page(path.relative_to(ROOT).as_posix())
        fences = re.findall(r"^\s*(?:```|~~~)", page.text, re.MULTILINE)
        assert len(fences) == 2 * len(page.all_blocks), page.name


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = [
        (page, link)
        for page in [*PAGES, *ROOT.glob("benchmarks/*.md"), *ROOT.glob("*.md")]
        for link in re.findall(r"\]\(([^)]+)\)", page.read_text())
        if "://" not in link
    ]
    assert links
    assert [
        (page, link) for page, link in links if not (page.parent / link.partition("#")[0]).exists()
    ] == []


def test_every_page_that_the_code_refers_to_is_there() -> None:
    package = [*ROOT.glob("aiosocketserver/**/*.py"), *ROOT.glob("compat/*.py")]
    pages = {page for path in package for page in re.findall(r"docs/[\w/-]+\.md", path.read_text())}
    assert pages
    assert {page for page in pages if not (ROOT / page).exists()} == set()

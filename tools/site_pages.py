"""What the pages of the site need that MkDocs does not do: hooks, named in mkdocs.yml.

- A page links to a file of the repository as a code host wants it, `../examples/echo.py`.
  On the site each file that is linked so is a page of its own.
- A page in docs/examples/ is in the navigation, and on the page that lists them, because
  it is there.
- Nothing may be loaded from elsewhere, and no docstring may be missing.
"""

import functools
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from pygments.lexers import find_lexer_class_for_filename

from tools.site_docstrings import undocumented

# A warning of this logger fails the strict build.
logger = logging.getLogger("mkdocs.hooks.site_pages")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXAMPLES = "examples/README.md"
PACKAGE = "aiosocketserver"

_RENDERED = re.compile(rf"^::: {PACKAGE}\.([\w.]+)$", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!\w+:)[^)#\s]+")
_LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:\w+:)?//[^>]*>")


def on_config(config: MkDocsConfig) -> None:
    """Put the examples into the navigation, which names the page that lists them."""
    nav: list[dict[str, Any]] = config.nav or []
    (section,) = [entry["Examples"] for entry in nav if "Examples" in entry]
    section += [page.relative_to(DOCS).as_posix() for page in _example_pages()]


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Make the pages of the files that others link to."""
    linked = {
        path
        for file in files.documentation_pages()
        for link in _LINK.findall(file.content_string)
        if (path := _repository_file(link, file))
    }
    for path in linked:
        lexer = find_lexer_class_for_filename(path.name)
        language = lexer.aliases[0] if lexer else "text"
        content = f"# {path.relative_to(ROOT)}\n\n````{language}\n{path.read_text()}````\n"
        page = File.generated(
            config, _page_of(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV
        )
        files.append(page)


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Have links to files lead to their pages, and list the examples."""
    for name in _RENDERED.findall(markdown):
        for missing in undocumented(_package(), name):
            logger.warning("%s: %s.%s has no docstring", page.file.src_uri, PACKAGE, missing)

    def lead(match: re.Match[str]) -> str:
        path = _repository_file(match[0], page.file)
        if path is None:
            return match[0]
        return posixpath.relpath(_page_of(path), posixpath.dirname(page.file.src_uri))

    if page.file.src_uri == EXAMPLES:
        markdown += "\n" + "".join(map(_entry, _example_pages()))
    return _LINK.sub(lead, markdown)


def on_post_page(output: str, *, page: Page, **_: Any) -> None:
    """See that the page loads nothing from elsewhere."""
    for tag in _LOADED.findall(output):
        logger.warning("%s loads from elsewhere: %s", page.file.src_uri, tag)


@functools.cache
def _package() -> griffe.Module:
    package = griffe.load(PACKAGE, search_paths=[ROOT])
    assert isinstance(package, griffe.Module)
    return package


def _repository_file(link: str, page: File) -> Path | None:
    """The file outside of docs/ that a link on a page leads to, if it does.

    Not another page, whose links would lead nowhere from here.
    """
    path = (DOCS / page.src_uri).parent.joinpath(link).resolve()
    outside = path.is_relative_to(ROOT) and not path.is_relative_to(DOCS)
    return path if outside and path.is_file() and path.suffix != ".md" else None


def _page_of(path: Path) -> str:
    return f"files/{path.relative_to(ROOT).as_posix()}.md"


def _example_pages() -> list[Path]:
    return sorted(set((DOCS / EXAMPLES).parent.glob("*.md")) - {DOCS / EXAMPLES})


def _entry(page: Path) -> str:
    """A line for an example: the title and first paragraph of its page."""
    title, paragraph = page.read_text().removeprefix("# ").split("\n\n", 2)[:2]
    return f"* [{title}]({page.name}): {' '.join(paragraph.split())}\n"

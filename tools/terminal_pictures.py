"""Draw the terminals of docs/pictures: `python -m tools.terminal_pictures [NAME...]`.

Without a name all of them. NAME.svg shows what docs/examples/NAME.md has in its `console`
blocks, after they have been typed in real terminals and have shown that.
"""

import io
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tests.page_support import ROOT, Entry, Page, entries
from tests.walk_support import follow_in_checkout

FOLDER = ROOT / "docs" / "pictures"
PAGES = {
    path.stem: Page(path.relative_to(ROOT).as_posix())
    for path in sorted((ROOT / "docs" / "examples").glob("*.md"))
    if f"../pictures/{path.stem}.svg" in path.read_text()
}

# Characters in a line of a terminal.
WIDTH = 88
# Pixels between two of them.
GAP = 12

# rich's own format loads a font from elsewhere.
WINDOW = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; }}
.{unique_id}-title {{ font-family: sans-serif; font-size: 18px; }}
{styles}
</style>
<defs>{lines}</defs>
{chrome}
<g class="{unique_id}-matrix" transform="translate({terminal_x}, {terminal_y})">{matrix}</g>
</svg>
"""

SVG = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", SVG)


def terminals(page: Page) -> list[list[Text]]:
    """The lines in each terminal of a page, in the order in which they are first used."""
    found: defaultdict[str | int | None, list[Text]] = defaultdict(list)
    servers = 0
    for block in page.all_blocks:
        for entry in entries(block) if block.language == "console" else ():
            if entry.block.title is not None or not (entry.serves or entry.command is None):
                # None is the one where clients are started that have no terminal of their own.
                found[entry.block.title] += lines(entry)
                continue
            # A server's terminal is free for the next one when it has ended.
            servers -= entry.command is None
            found[servers] += lines(entry)
            servers += entry.serves
    return list(found.values())


def lines(entry: Entry) -> Iterator[Text]:
    """What an entry is in its terminal; what was typed is bold."""
    if entry.command is not None:
        for number, line in enumerate(entry.command.splitlines()):
            yield Text.assemble("> " if number else "$ ", (line, "bold"))
    for shown, typed in entry.conversation:
        yield Text.assemble(shown, (typed, "bold"))


def draw(page: Page) -> str:
    """The terminals of a page as SVG, one above the other."""
    picture = ElementTree.Element(f"{{{SVG}}}svg")
    height = 0.0
    for number, terminal in enumerate(terminals(page), 1):
        console = Console(record=True, width=WIDTH, file=io.StringIO())
        console.print(*terminal, sep="\n")
        name = f"Terminal {number}"
        window = ElementTree.fromstring(
            console.export_svg(title=name, code_format=WINDOW, unique_id=f"terminal-{number}")
        )
        for element in window.findall(".//{*}text[@textLength]"):
            # rich takes a Chinese character for as wide as a Latin one.
            text = element.text or ""
            width = float(element.attrib["textLength"]) * cell_len(text) / len(text)
            element.set("textLength", f"{width:g}")
        window.set("y", f"{height:g}")
        picture.append(window)
        height += float(window.attrib["height"]) + GAP
        picture.set("viewBox", f"0 0 {window.attrib['width']} {height - GAP:g}")
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def main(names: list[str]) -> int:
    if unknown := set(names) - PAGES.keys():
        print(f"no such pictures: {', '.join(sorted(unknown))}\n\n{__doc__}", file=sys.stderr)
        return 2
    for name in names or PAGES:
        with tempfile.TemporaryDirectory() as home:
            follow_in_checkout(PAGES[name], Path(home))
        (FOLDER / f"{name}.svg").write_text(draw(PAGES[name]))
        print(f"docs/pictures/{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Code on pages: found, run as it stands there, and counted, so that none is left out.

A test that executes blocks says which, with `Page.executes`; test_pages.py fails for a
block that no test executes. Libraries that collect code blocks (sybil, pytest-examples,
pytest-codeblocks, mktestdocs) run each by itself: they start no server that a later block
talks to, and pass over blocks of other languages.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent

# A port on a page; tests put another in its place, for two may run at once.
PORT = re.compile(r"\b999[0-9]\b")

_HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
_FENCED = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: +title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_PROMPTED = re.compile(r"[^\s>]+> (.*)")

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    line: int
    section: str
    # The paragraph before it.
    introduction: str
    language: str
    # The name of the file that it is, or of the terminal, if it has one.
    title: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A command in a `console` block and the lines after it, or the lines before any command."""

    block: Block
    command: str | None
    lines: list[str]

    @property
    def serves(self) -> bool:
        """Whether the command is a server, which goes on in its terminal."""
        return bool(self.lines) and re.search(r"\bserving ", self.lines[-1]) is not None

    @property
    def is_conversation(self) -> bool:
        """Whether something is typed after the command, to the program."""
        return self.block.title is not None or (self.command or "").startswith("nc ")

    @property
    def conversation(self) -> Iterator[tuple[str, str]]:
        """For each line what is shown, and what is typed behind that."""
        named = set(re.findall(r"`([^`]+)`", self.block.introduction)) & set(self.lines)
        for number, line in enumerate(self.lines):
            if line == "^C":
                typed = line
            elif self.block.title is not None:
                prompted = _PROMPTED.fullmatch(line)
                typed = prompted[1] if prompted else ""
            elif self.is_conversation and (line in named if named else number % 2 == 0):
                typed = line
            else:
                typed = ""
            yield line.removesuffix(typed), typed


def entries(block: Block) -> Iterator[Entry]:
    """What a `console` block consists of."""
    shown, *commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    if shown:
        yield Entry(block, None, shown.splitlines())
    for typed in commands:
        # A line that ends in a backslash goes on.
        command, lines = re.split(r"(?<!\\)\n", typed, maxsplit=1)
        yield Entry(block, command, lines.splitlines())


# Those that tests execute.
executed: set[Block] = set()


class Page:
    """A Markdown file of the repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (ROOT / name).read_text()
        self.all_blocks = [self._block(match) for match in _FENCED.finditer(self.text)]

    def _block(self, match: re.Match[str]) -> Block:
        before = self.text[: match.start()]
        sections = _HEADING.findall(before)
        return Block(
            self.name,
            before.count("\n") + 1,
            sections[-1] if sections else "",
            before.rstrip().rpartition("\n\n")[2],
            match["language"],
            match["title"],
            re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
        )

    def executes(self, title: str | None = None, number: int | None = None) -> Callable[[T], T]:
        """Says of a test that it executes all blocks, or those of a section, or one of these.

        What comes before the first section is that without a title.
        """
        blocks = [block for block in self.all_blocks if title in (None, block.section)]
        assert blocks, f"{self.name} has no code in {title!r}"
        executed.update(blocks if number is None else [blocks[number]])
        return lambda test: test

    def section(self, title: str) -> str:
        text = re.split(rf"^##+ {re.escape(title)}$", self.text, flags=re.MULTILINE)[1]
        return re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]

    def blocks(self, language: str, title: str | None = None) -> list[str]:
        """The code blocks of a language, of one section or of the whole page."""
        return [
            block.text
            for block in self.all_blocks
            if block.language == language and title in (None, block.section)
        ]

    def source(self, title: str, number: int = 0) -> str:
        """A Python block of a section, with its ports made 0 and its paths relative."""
        return PORT.sub("0", self.blocks("python", title)[number]).replace("/tmp/", "")

    def namespace(self, title: str, number: int = 0, **given: Any) -> dict[str, Any]:
        """What that block defines, where `given` is there already."""
        namespace: dict[str, Any] = {"__name__": "page", **given}
        exec(compile(self.source(title, number), f"{self.name}, {title}", "exec"), namespace)
        return namespace

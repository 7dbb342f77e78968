"""Code on pages: found by its section, and run as it stands there."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# A port on a page; tests put another in its place, for two may run at once.
PORT = re.compile(r"\b999[0-9]\b")


class Page:
    """A Markdown file of the repository."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (ROOT / name).read_text()

    def section(self, title: str) -> str:
        text = re.split(rf"^##+ {re.escape(title)}$", self.text, flags=re.MULTILINE)[1]
        return re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]

    def blocks(self, language: str, title: str | None = None) -> list[str]:
        """The code blocks of a language, of one section or of the whole page."""
        text = self.text if title is None else self.section(title)
        return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def source(self, title: str, number: int = 0) -> str:
        """A Python block of a section, with its ports made 0 and its paths relative."""
        return PORT.sub("0", self.blocks("python", title)[number]).replace("/tmp/", "")

    def namespace(self, title: str, number: int = 0) -> dict[str, Any]:
        """What that block defines."""
        namespace: dict[str, Any] = {"__name__": "page"}
        exec(compile(self.source(title, number), f"{self.name}, {title}", "exec"), namespace)
        return namespace

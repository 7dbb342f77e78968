"""A page that is followed word for word: its files are written, its commands are typed.

- A block with a title is a file, but for `console` blocks, which are terminals.
- A command follows `$ `, and then comes what it shows; `...` stands for any lines, or for
  anything within a line.
- A command whose last line says that it is serving goes on in its terminal, and the next
  block is another one. A block without a command is the terminal of the server that was
  started last, until it ends; `^C` is typed there.
- Lines after `nc` are typed and answered in turn. Where answers are not one line each, the
  paragraph before the block has those that are typed in code, `like this`.
- With a title, a terminal goes on in the next block of the same title. What is typed there
  comes after a prompt, which ends in `> `.

Ports, process ids, times, the version of Python and the kind of core may differ from those on
the page.
"""

import dataclasses
import functools
import os
import re
import sys
from pathlib import Path
from typing import Self

from tests.page_support import ROOT, Entry, Page, entries
from tests.port_support import free_port
from tests.terminal_support import Terminal

# Where an address ends in one; then the same number is that port on the whole page.
_PORT = re.compile(r'(?<=127\.0\.0\.1)(?:[: ]|", )(\d{4,5})\b')
_PROCESS_ID = re.compile(r"(?<=\[)\d+(?=\])|(?<=\bprocess )\d+(?= heard: )")

# What is another in each run, and as good.
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"  # the time of a log record
    r"|\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}"  # that of time.ctime()
    r"|\d+\.\d\ds\b"  # how long tests took
    r"|(?<=\('127\.0\.0\.1', )\d+"  # the port of a client
    r"|\d+(?= requests finished)"  # a client that leaves just before may be one of them
    r"|(?<=Python )\d[\d.]+\d"
    r"|compiled core|core in Python"  # as it could be installed
)

# Leaves the variables that the command has set to those that follow.
_KEEPING = 'eval "$1"; status=$?; env -0 >"$2"; exit $status'

# What `openssl s_client` says first from 3.2 on, however quiet it is to be.
_OPENSSL_CONNECTS = "Connecting to "


class Walk:
    """Somebody who follows a page, block by block, in `folder`."""

    def __init__(self, page: Page, folder: Path, variables: dict[str, str]) -> None:
        self._page = page
        self._folder = folder
        self._variables = variables
        self._terminals: list[Terminal] = []
        # The one that was started last is the last one.
        self._servers: list[Terminal] = []
        self._by_title: dict[str, Terminal] = {}
        self._ports = {each: str(free_port()) for each in set(_PORT.findall(page.text))}
        # What was shown, for the process ids on the page.
        self._process_ids: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self._terminals:
            terminal.close()

    def follow(self) -> None:
        """Do what the page says, but for code that is neither a file nor typed."""
        for block in self._page.all_blocks:
            text = re.sub(r"\b\d+\b", lambda match: self._ports.get(match[0], match[0]), block.text)
            if block.language == "console":
                for entry in entries(dataclasses.replace(block, text=text)):
                    self._do(entry)
            elif block.title is not None:
                (self._folder / block.title).write_text(text)

    def _do(self, entry: Entry) -> None:
        if entry.command is None:
            if entry.block.title is None:
                self._watch_server(entry.lines)
            else:
                self._talk(self._by_title[entry.block.title], entry)
            return
        command = self._with_process_ids(entry.command.replace("\\\n", ""))
        if entry.is_conversation:
            client = self._start(f"exec {command}")
            if entry.block.title is not None:
                self._by_title[entry.block.title] = client
            self._talk(client, entry)
        elif entry.serves:
            server = self._start(f"exec {command}")
            self._compare(server, entry.lines)
            self._servers.append(server)
        else:
            kept = self._folder.parent / "variables"
            terminal = self._start(_KEEPING, "sh", command, str(kept))
            self._compare_all(terminal, entry.lines)
            assert terminal.wait() == 0, command
            pairs = kept.read_text().rstrip("\0").split("\0")
            self._variables = dict(pair.split("=", 1) for pair in pairs)

    def _with_process_ids(self, command: str) -> str:
        ids = self._process_ids
        return re.sub(r"\b\d+\b", lambda match: ids.get(match[0], match[0]), command)

    def _start(self, *arguments: str) -> Terminal:
        terminal = Terminal(["sh", "-c", *arguments], self._folder, self._variables)
        self._terminals.append(terminal)
        return terminal

    def _watch_server(self, lines: list[str]) -> None:
        assert self._servers, "no server was started before"
        server = self._servers.pop()
        if "^C" in lines:
            typed = lines.index("^C")
            self._compare(server, lines[:typed])
            server.interrupt()
            lines = lines[typed + 1 :]
        self._compare_all(server, lines)
        assert server.wait() == 0

    def _talk(self, terminal: Terminal, entry: Entry) -> None:
        for shown, typed in entry.conversation:
            if typed == "^C":
                terminal.interrupt()
                terminal.wait()
                return
            if typed:
                terminal.enter(shown, typed)
            if entry.block.title is None:
                self._compare(terminal, [shown + typed])
            else:
                terminal.wait_for(functools.partial(self._same, shown + typed))

    def _compare_all(self, terminal: Terminal, lines: list[str]) -> None:
        """See that it shows these lines, and ends."""
        to_the_end = self._compare(terminal, lines)
        rest = list(iter(terminal.line, None))
        assert to_the_end or not rest, f"more than the page has: {rest}"

    def _compare(self, terminal: Terminal, lines: list[str]) -> bool:
        """See that it shows these lines; whether the last of them stands for any that come."""
        any_lines = False
        for wanted in lines:
            if wanted == "...":
                any_lines = True
                continue
            while not self._same(wanted, line := terminal.line()):
                skipped = any_lines or (line or "").startswith(_OPENSSL_CONNECTS)
                assert skipped, f"{wanted!r} on the page is {line!r}"
                assert line is not None, f"{wanted!r} never came"
            any_lines = False
        return any_lines

    def _same(self, wanted: str, line: str | None) -> bool:
        if line is None:
            return False
        pattern = re.escape(_common(wanted)).replace(r"\.\.\.", ".*")
        if not re.fullmatch(pattern, _common(line)):
            return False
        ids = self._process_ids
        numbers = zip(_PROCESS_ID.findall(wanted), _PROCESS_ID.findall(line), strict=False)
        for here, there in numbers:
            if ids.setdefault(here, there) != there:
                return False
        # Two on the page are two.
        return len(set(ids.values())) == len(ids)


def variables_with_it_installed(home: Path) -> dict[str, str]:
    """Those of a shell where `python` is this Python, and the package is installed for it."""
    programs = home / "bin"
    programs.mkdir()
    for name, arguments in (("python", ""), ("aiosocketserver", "-m aiosocketserver")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    return {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        # Debian's HAProxy is not on every user's PATH.
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"], "/usr/sbin"]),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "TERM": "xterm",
        # A plugin that is installed for the tests only, and has much to say.
        "PYTEST_ADDOPTS": "-p no:asyncio",
    }


def follow_in_checkout(page: Page, home: Path) -> None:
    """Follow a page whose commands are typed where examples/ is."""
    # A folder of its own, for the files that the commands make.
    folder = home / "checkout"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    with Walk(page, folder, variables_with_it_installed(home)) as walk:
        walk.follow()


def _common(line: str) -> str:
    """A line, with one text for whatever may differ."""
    return " ".join(_VARYING.sub("(varies)", _PROCESS_ID.sub("(id)", line)).split())

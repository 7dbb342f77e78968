"""A page that is followed word for word: its files are written, its commands are typed.

- A block with a title is a file.
- A `console` block is a terminal. A command follows `$ `, and then comes what it shows;
  `...` stands for any lines, or for anything within a line.
- A command whose last line says that it is serving goes on in its terminal, and the next
  block is another one. A block without a command is the terminal of the server that was
  started last, until it ends; `^C` is typed there.
- Lines after `nc` are typed and answered in turn.

Ports, process ids, times and the version of Python may differ from those on the page.
"""

import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path
from typing import Self

from tests.page_support import Page

TIMEOUT = 60

_PORT = re.compile(r"\b9\d{3}\b")
_PROCESS_ID = re.compile(r"(?<=\[)\d+(?=\])")

# What is another in each run, and as good.
_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"  # the time of a log record
    r"|\d+\.\d\ds\b"  # how long tests took
    r"|(?<=Python )\d[\d.]+\d"
)

# Makes the terminal that of the command, whom Ctrl-C then reaches, and becomes it.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)

# Leaves the variables that the command has set to those that follow.
_KEEPING = 'eval "$1"; status=$?; env -0 >"$2"; exit $status'


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str]) -> None:
        self._unread = b""
        self._master, slave = os.openpty()
        # Wide enough for any line.
        termios.tcsetwinsize(slave, (50, 500))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *command],
            cwd=folder,
            env=variables,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def line(self) -> str | None:
        """The next line that it shows; None when it has ended."""
        while b"\n" not in self._unread:
            if not self._read():
                rest, self._unread = self._unread, b""
                return rest.decode() or None
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode().rstrip("\r")

    def _read(self) -> bool:
        if not select.select([self._master], [], [], TIMEOUT)[0]:
            raise TimeoutError(f"a command shows nothing more than {self._unread!r}")
        try:
            data = os.read(self._master, 64 * 1024)
        except OSError:
            # EIO, on Linux: nobody has it open any more.
            data = b""
        self._unread += data
        return bool(data)

    def type(self, text: str) -> None:
        """Type it; it is shown as well."""
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        """Type Ctrl-C. What was not read before is forgotten."""
        self.type("\x03")
        while b"^C" not in self._unread:
            assert self._read(), "the command has ended before"
        self._unread = self._unread.partition(b"^C")[2]

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self._process.wait(TIMEOUT)

    def close(self) -> None:
        """Have it end, whatever it is doing."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT)
        os.close(self._master)


class Walk:
    """Somebody who follows a page, block by block, in `folder`."""

    def __init__(self, page: Page, folder: Path, variables: dict[str, str]) -> None:
        self._page = page
        self._folder = folder
        self._variables = variables
        self._terminals: list[Terminal] = []
        self._server: Terminal | None = None
        self._ports = _free_ports(set(_PORT.findall(page.text)))
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
            text = _PORT.sub(lambda match: self._ports[match[0]], block.text)
            if block.title is not None:
                (self._folder / block.title).write_text(text)
            elif block.language == "console":
                self._use_terminals(text)

    def _use_terminals(self, text: str) -> None:
        shown, *commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
        if shown:
            self._watch_server(shown.splitlines())
        for typed in commands:
            first, *lines = typed.replace("\\\n", "").splitlines()
            self._run(self._with_process_ids(first), lines)

    def _with_process_ids(self, command: str) -> str:
        ids = self._process_ids
        return re.sub(r"\b\d+\b", lambda match: ids.get(match[0], match[0]), command)

    def _run(self, command: str, lines: list[str]) -> None:
        if command.startswith("nc "):
            self._talk(self._start(f"exec {command}"), lines)
        elif lines and re.search(r"\bserving ", lines[-1]):
            self._server = self._start(f"exec {command}")
            self._compare(self._server, lines)
        else:
            kept = self._folder.parent / "variables"
            terminal = self._start(_KEEPING, "sh", command, str(kept))
            self._compare_all(terminal, lines)
            assert terminal.wait() == 0, command
            pairs = kept.read_text().rstrip("\0").split("\0")
            self._variables = dict(pair.split("=", 1) for pair in pairs)

    def _start(self, *arguments: str) -> Terminal:
        terminal = Terminal(["sh", "-c", *arguments], self._folder, self._variables)
        self._terminals.append(terminal)
        return terminal

    def _watch_server(self, lines: list[str]) -> None:
        assert self._server is not None, "no server was started before"
        if "^C" in lines:
            typed = lines.index("^C")
            self._compare(self._server, lines[:typed])
            self._server.interrupt()
            del lines[: typed + 1]
        self._compare_all(self._server, lines)
        assert self._server.wait() == 0
        self._server = None

    @staticmethod
    def _talk(terminal: Terminal, lines: list[str]) -> None:
        for number, line in enumerate(lines):
            if line == "^C":
                terminal.interrupt()
                terminal.wait()
                return
            if number % 2 == 0:
                terminal.type(f"{line}\n")
            assert terminal.line() == line
        # The server has closed the connection.
        assert terminal.line() is None

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
                assert any_lines, f"{wanted!r} on the page is {line!r}"
                assert line is not None, f"{wanted!r} never came"
            any_lines = False
        return any_lines

    def _same(self, wanted: str, line: str | None) -> bool:
        if line is None:
            return False
        pattern = re.escape(_common(wanted)).replace(r"\.\.\.", ".*")
        if not re.fullmatch(pattern, _common(line)):
            return False
        numbers = zip(_PROCESS_ID.findall(wanted), _PROCESS_ID.findall(line), strict=False)
        return all(self._process_ids.setdefault(here, there) == there for here, there in numbers)


def _common(line: str) -> str:
    """A line, with one text for whatever may differ."""
    return " ".join(_VARYING.sub("(varies)", _PROCESS_ID.sub("(id)", line)).split())


def _free_ports(names: set[str]) -> dict[str, str]:
    """A port that is free for each of those on a page."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [str(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return dict(zip(sorted(names), ports, strict=True))

"""Clients of the kind that tutorials have, as processes.

Those in tests/examples/clients are the project's own and run everywhere. The clients of
tutorials on the net are other people's, and no part of the repository: they are run from
`../shared/seeds/programs` beside the checkout, where that folder exists.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.deploy_support import ROOT
from tests.example_support import TIMEOUT

OURS = ROOT / "tests" / "examples" / "clients"
TEXTS = ROOT.parent / "shared" / "seeds" / "programs"


class Program:
    """A client's source, and what it says in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path.read_text()

    def found(self, pattern: str) -> str:
        """What the only group of `pattern` matches in a line of the source."""
        match = re.search(pattern, self.source, re.MULTILINE)
        assert match is not None, f"{self.path} has no {pattern}"
        return match[1]

    @property
    def prompt(self) -> str:
        return self.found(r"input\(['\"](.*)['\"]\)")

    def command(self, port: int, more: str) -> list[str]:
        return [sys.executable, "-u", str(self.path), "127.0.0.1", str(port)]


class Text(Program):
    """The client of a text: another host and port are put in, and calls may be added."""

    def command(self, port: int, more: str) -> list[str]:
        address = r"(127\.0\.0\.1|localhost)(['\"],\s*)\d+"
        code = re.sub(address, rf"127.0.0.1\g<2>{port}", self.source)
        interpreter = python2() if self.path.suffix == ".py2" else sys.executable
        return [interpreter, "-u", "-c", f"# -*- coding: utf-8 -*-\n{code}{more}"]


def ours(name: str) -> Program:
    return Program(OURS / f"{name}.py")


def text(name: str) -> Program:
    """The client of a text, or a skipped test where the texts are not.

    Also where AIOSOCKETSERVER_REQUIRE_ALL is set: nobody can install them, as one can a
    program of the distribution, and the project's own clients have made the same calls.
    """
    if not TEXTS.is_dir():
        pytest.skip(f"the clients of the texts are not in {TEXTS}")
    return Text(TEXTS / name)


def python2() -> str:
    """A Python 2 of pyenv's, or one that is on PATH. No distribution has one any more."""
    roots = [Path(os.environ.get("PYENV_ROOT", "")), Path.home() / ".pyenv"]
    for found in (path for root in roots for path in root.glob("versions/2.7*/bin/python2.7")):
        return str(found)
    return shutil.which("python2.7") or pytest.skip("there is no Python 2.7")


class Client:
    """A client that reads lines and prints what the server sends."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )

    def enter(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def until(self, text: str) -> str:
        """What it prints up to and with `text`."""
        assert self.process.stdout is not None
        seen = b""
        while not seen.endswith(text.encode()):
            byte = self.process.stdout.read(1)
            assert byte, f"no {text!r} after {seen.decode()!r}"
            seen += byte
        return seen.decode()

    def end(self) -> tuple[str, str]:
        """The rest of what it prints, and its errors, after the end of its input."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        return output.decode(), errors.decode()


@contextlib.contextmanager
def client(program: Program, port: int, more: str = "") -> Generator[Client]:
    """Run a client against a server on 127.0.0.1, at most for TIMEOUT seconds."""
    running = Client(program.command(port, more))
    watchdog = threading.Timer(TIMEOUT, running.process.kill)
    watchdog.start()
    try:
        yield running
    finally:
        watchdog.cancel()
        watchdog.join()
        running.process.kill()
        running.process.communicate()

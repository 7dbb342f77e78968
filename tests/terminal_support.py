"""A command in a terminal of its own, and somebody who reads and types there."""

import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pyte

# Seconds for a program to show something. pytest's own limit would end the whole run.
TIMEOUT = 50

# Makes the terminal that of the command, whom Ctrl-C then reaches, and becomes it.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class Screen(pyte.Screen):
    """What is on a terminal; it answers when a program asks where the cursor is."""

    def __init__(self, columns: int, lines: int, descriptor: int) -> None:
        super().__init__(columns, lines)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, command: list[str], folder: Path, variables: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        # Large enough for any line, and for all of them.
        self._screen = Screen(500, 1000, self._master)
        self._output = pyte.ByteStream(self._screen)
        # The first row that was not read.
        self._next = 0
        termios.tcsetwinsize(slave, (self._screen.lines, self._screen.columns))
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
        while self._screen.cursor.y <= self._next and self._read():
            pass
        line = self._row(self._next)
        if self._screen.cursor.y <= self._next and not line:
            return None
        self._next += 1
        return line.rpartition("^C")[2]

    def _row(self, number: int) -> str:
        row = self._screen.buffer[number]
        return "".join(row[column].data for column in range(self._screen.columns)).rstrip()

    def _read(self) -> bool:
        if not select.select([self._master], [], [], TIMEOUT)[0]:
            raise TimeoutError(f"a command shows nothing more than {self._row(self._next)!r}")
        try:
            data = os.read(self._master, 64 * 1024)
        except OSError:
            # EIO, on Linux: nobody has it open any more.
            data = b""
        self._output.feed(data)
        return bool(data)

    def wait_for(self, is_wanted: Callable[[str], bool]) -> None:
        """Wait for the next line to become a certain one, for a prompt may be there first."""
        while not is_wanted(self._row(self._next)):
            assert self._read(), f"it has ended with {self._row(self._next)!r}"
        self._next += 1

    def enter(self, prompt: str, text: str) -> None:
        """Type a line when its prompt has come; it is shown as well."""
        while self._row(self._screen.cursor.y) != prompt.rstrip():
            assert self._read(), f"it has ended without {prompt!r}"
        os.write(self._master, f"{text}\r".encode())

    def interrupt(self) -> None:
        """Type Ctrl-C. What was not read before is forgotten."""
        os.write(self._master, b"\x03")
        while "^C" not in self._row(self._next):
            if self._screen.cursor.y > self._next:
                self._next += 1
            elif not self._read():
                # It has ended at once, and the terminal has dropped what it showed last.
                return

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self._process.wait(TIMEOUT)

    def close(self) -> None:
        """Have it end, whatever it is doing."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT)
        os.close(self._master)

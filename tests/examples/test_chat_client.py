"""client.py of examples/chat, at terminals and in pipes."""

import contextlib
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pyte
import pytest

from messages import Message, encode
from tests.chat_support import Peer, chat_room, frame, joined, left, said
from tests.deploy_support import ROOT
from tests.example_support import LOOPS, TIMEOUT

each_loop = pytest.mark.parametrize("loop", LOOPS)

CLIENT = [sys.executable, "examples/chat/client.py"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}


class Screen(pyte.Screen):
    """What is on a terminal; it answers when the program asks where the cursor is."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(80, 24)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())


class Terminal:
    """A client in a terminal, which it has for itself."""

    def __init__(self, name: str, port: int) -> None:
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (24, 80))
        self._screen = Screen(self._master)
        self._output = pyte.ByteStream(self._screen)
        self.process = subprocess.Popen(
            [*CLIENT, name, f"127.0.0.1:{port}"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(TIMEOUT)
        os.close(self._master)
        os.close(self._slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    @property
    def lines(self) -> list[str]:
        """What is on the screen."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    def until(self, *lines: str) -> None:
        """Wait for these to be the last lines on the screen."""
        deadline = time.monotonic() + TIMEOUT
        while self.lines[-len(lines) :] != list(lines):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._master], [], [], remaining)[0]:
                pytest.fail("\n".join(["on the screen:", *self.lines, "not at its end:", *lines]))
            self._output.feed(os.read(self._master, 64 * 1024))

    @property
    def echoes(self) -> bool:
        """Whether the terminal is as it was before the client changed it."""
        flags: int = termios.tcgetattr(self._slave)[3]
        return bool(flags & termios.ECHO and flags & termios.ICANON)


def prompt(name: str, typed: str = "") -> str:
    return f"{name}@127.0.0.1> {typed}".rstrip()


# At terminals


@each_loop
def test_people_at_terminals(loop: str, tmp_path: Path) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        Terminal("alice", room.ports[0]) as alice,
    ):
        alice.until(prompt("alice"))
        with Terminal("bob", room.ports[0]) as bob:
            alice.until(joined(2, "bob"), prompt("alice"))
            with Terminal("carol", room.ports[0]) as carol:
                alice.until(joined(2, "bob"), joined(3, "carol"), prompt("alice"))
                bob.until(joined(3, "carol"), prompt("bob"))
                carol.until(prompt("carol"))

                # What comes while a line is being typed appears above it.
                alice.type("half a li")
                alice.until(prompt("alice", "half a li"))
                bob.type("hello\r")
                alice.until(said("bob", "hello"), prompt("alice", "half a li"))
                alice.type("ne\r")
                alice.until(said("bob", "hello"), prompt("alice", "half a line"), prompt("alice"))
                # Nobody hears what it said itself.
                bob.until(prompt("bob", "hello"), said("alice", "half a line"), prompt("bob"))
                carol.until(said("bob", "hello"), said("alice", "half a line"), prompt("carol"))
                # It vanishes: `with` kills it.
            alice.until(left("carol"), prompt("alice"))
            bob.type("/quit\r")
            assert bob.process.wait(TIMEOUT) == 0
            assert bob.echoes
            alice.until(left("carol"), left("bob"), prompt("alice"))

        room.process.send_signal(signal.SIGTERM)
        alice.until(left("bob"), prompt("alice"), "the room closes")
        assert alice.process.wait(TIMEOUT) == 1
        assert alice.echoes
        assert room.wait() == 0
        assert any(" 0 cut" in line for line in room.lines)


@pytest.mark.parametrize("key", ["\x04", "never sent\x03"], ids=["ctrl-d", "ctrl-c"])
def test_keys_to_leave(key: str, tmp_path: Path) -> None:
    with (
        chat_room(loop="asyncio", folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Terminal("alice", room.ports[0]) as alice,
    ):
        alice.until(prompt("alice"))
        alice.type(key)
        bob.hears(joined(2, "alice"), left("alice"))
        assert alice.process.wait(TIMEOUT) == 0
        assert alice.echoes


def test_what_cannot_be_sent_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    with (
        chat_room(loop="asyncio", folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Terminal("alice", room.ports[0]) as alice,
    ):
        alice.until(prompt("alice"))
        # As a terminal sends what is pasted into it (bracketed paste).
        alice.type("\x1b[200~one\ntwo\x07\n\nthree\x1b[201~\r")
        bob.hears(joined(2, "alice"), said("alice", "one"), said("alice", "three"))
        alice.until("not sent: a text has no control characters", prompt("alice"))


def test_a_server_that_dies_ends_the_prompt(tmp_path: Path) -> None:
    with (
        chat_room(loop="asyncio", folder=tmp_path) as room,
        Terminal("alice", room.ports[0]) as alice,
    ):
        alice.until(prompt("alice"))
        alice.type("half a li")
        alice.until(prompt("alice", "half a li"))
        room.process.kill()
        alice.until(prompt("alice", "half a li"), "the server has closed the connection")
        assert alice.process.wait(TIMEOUT) == 1
        assert alice.echoes
        room.wait()


# Without a terminal


def client(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """What becomes of a client whose standard input is a pipe."""
    return subprocess.run(
        [*CLIENT, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@each_loop
def test_all_lines_of_a_pipe_or_a_file_arrive(loop: str, tmp_path: Path) -> None:
    lines = [f"line {number}" for number in range(8)]
    file = tmp_path / "lines"
    file.write_text("\n".join(lines))
    with chat_room(loop=loop, folder=tmp_path) as room, Peer(room.ports[0], "bob") as bob:
        address = f"127.0.0.1:{room.ports[0]}"
        done = client("alice", address, text="\n".join([*lines, "/quit", "never sent"]))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        with file.open() as stdin:
            subprocess.run(
                [*CLIENT, "carol", address],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=stdin,
                timeout=TIMEOUT,
                check=True,
            )
        for name in ("alice", "carol"):
            bob.hears(joined(2, name), *(said(name, line) for line in lines), left(name))


def test_a_line_without_end_in_a_pipe_is_the_last(tmp_path: Path) -> None:
    with chat_room(loop="asyncio", folder=tmp_path) as room, Peer(room.ports[0], "bob") as bob:
        done = client("alice", f"127.0.0.1:{room.ports[0]}", text="first\n" + "x" * 1_000_000)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "the rest is not sent: a line has more than 64 KiB\n"
        bob.hears(joined(2, "alice"), said("alice", "first"), left("alice"))


def test_a_client_in_a_pipe_prints_what_others_say_and_ends_with_the_server(
    tmp_path: Path,
) -> None:
    with (
        chat_room(loop="asyncio", folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        subprocess.Popen(
            [*CLIENT, "alice", f"127.0.0.1:{room.ports[0]}"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as alice,
    ):
        bob.hears(joined(2, "alice"))
        bob.say("hello")
        assert alice.stdout is not None
        assert alice.stderr is not None
        assert alice.stdout.readline() == said("bob", "hello") + "\n"
        room.process.send_signal(signal.SIGTERM)
        assert alice.wait(TIMEOUT) == 1
        assert alice.stderr.read() == "the room closes\n"
        bob.close()
        assert room.wait() == 0


@contextlib.contextmanager
def false_server(**stdin: Any) -> Generator[tuple[socket.socket, "subprocess.Popen[str]"]]:
    """A connection of a client that takes its end for a room, and the client."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(
            [*CLIENT, "alice", f"127.0.0.1:{listener.getsockname()[1]}"],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **stdin,
        ) as alice,
    ):
        listener.settimeout(TIMEOUT)
        server, _ = listener.accept()
        with server:
            server.sendall(encode(Message("welcome", "alice")))
            yield server, alice


def test_a_server_cannot_write_escape_sequences_to_a_terminal() -> None:
    with false_server(stdin=subprocess.PIPE) as (server, alice):
        server.sendall(frame(b'{"line": "\\u001b[2J"}'))
        assert alice.wait(TIMEOUT) == 1
        assert alice.stdout is not None
        assert alice.stderr is not None
        assert alice.stdout.read() == ""
        assert alice.stderr.read() == "a line has no control characters\n"


def test_a_server_that_resets_the_connection_while_much_is_said(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text(("x" * 500 + "\n") * 40_000)
    with file.open() as stdin, false_server(stdin=stdin) as (server, alice):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.recv(1)
        server.close()
        assert alice.wait(TIMEOUT) == 1
        assert alice.stderr is not None
        assert alice.stderr.read().endswith("Connection reset by peer\n")


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        impatient = "import client; client.CONNECT_TIMEOUT = 0.1; client.main()"
        done = subprocess.run(
            [sys.executable, "-c", impatient, "alice", f"127.0.0.1:{port}"],
            cwd=ROOT / "examples" / "chat",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"cannot connect to 127.0.0.1 port {port}: no answer\n"


def test_what_is_wrong_with_the_arguments_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = client("alice", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert re.fullmatch(rf"cannot connect to 127.0.0.1 port {port}: .*\n", done.stderr)
    done = client("a b", f"127.0.0.1:{port}")
    assert (done.returncode, done.stderr) == (1, "a name has only letters, digits and . _ -\n")
    assert client("alice", "127.0.0.1").returncode == 2


def test_a_name_that_is_taken_is_told(tmp_path: Path) -> None:
    with chat_room(loop="asyncio", folder=tmp_path) as room, Peer(room.ports[0], "alice"):
        done = client("Alice", f"127.0.0.1:{room.ports[0]}")
        assert (done.returncode, done.stderr) == (1, "the name Alice is taken\n")

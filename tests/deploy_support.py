"""A service as a process, for tests of what it does: `aiosocketserver serve`, or a program."""

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What a service tells at its start, after its log format's own beginning of a line.
SERVING = re.compile(r"(?:^|\] )serving .* on ")

# What the tests serve; a worker tells which process it is.
APPLICATION = """
import asyncio, os, socketserver, sys, threading, time
from aiosocketserver import BaseRequestHandler, StreamRequestHandler, TCPServer, ThreadingTCPServer
from aiosocketserver import DatagramRequestHandler

class Echo(StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(line)

class Process(StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(b"%d\\n" % os.getpid())

class Waits(StreamRequestHandler):
    async def handle(self):
        await self.wfile.write(b"begun\\n")
        await self.server.drain_event.wait()
        await self.wfile.write(b"drained\\n")

class Stuck(StreamRequestHandler):
    async def handle(self):
        await self.wfile.write(b"begun\\n")
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

class Blocks(StreamRequestHandler):
    async def handle(self):
        await self.wfile.write(b"begun\\n")
        await self.wfile.flush()
        time.sleep(60)

class Exits(StreamRequestHandler):
    async def handle(self):
        sys.exit(7)

class Legacy(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(threading.current_thread().name.encode() + b" " + line)

class LegacyStuck(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"begun\\n")
        time.sleep(60)

class Datagram(DatagramRequestHandler):
    async def handle(self):
        self.wfile.write(b"%d " % os.getpid() + self.rfile.read())

class Server(TCPServer):
    def __init__(self, server_address, **options):
        super().__init__(server_address, Echo, **options)

def make(server_address, **options):
    return ThreadingTCPServer(server_address, Legacy, **options)

not_a_server = 5
"""


class Command:
    """A running service in a process of its own; its standard error, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def until(self, pattern: str) -> "re.Match[str]":
        """Wait for a line that has `pattern` in it."""
        while True:
            line = self._new.get(timeout=30)
            assert line is not None, f"no {pattern!r} in:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match

    @property
    def ports(self) -> list[int]:
        """The TCP and UDP ports that it serves on, when it has told."""
        (line,) = [line for line in self.lines if SERVING.search(line)]
        return [int(port) for port in re.findall(r"(?:tcp|tls|udp)://[^ ,]*:(\d+)", line)]

    def children(self) -> list[int]:
        """The process ids of its workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit code. The rest of its lines is in `lines` then."""
        code = self.process.wait(30)
        self._reader.join(30)
        while (line := self._new.get(timeout=30)) is not None:
            self.lines.append(line)
        return code

    def close(self) -> None:
        """End it, whatever it is doing, and all of its workers."""
        if self.process.poll() is None:
            for pid in self.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait(30)
        self._reader.join(30)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def serving_command(
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    preexec: str = "",
) -> Generator[Command]:
    """Run the command in `folder`, which gets the application, until the body ends."""
    (folder / "application.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "aiosocketserver", "serve", *arguments]
    if preexec:
        # Code that runs in the process first, and then becomes the command.
        command = [sys.executable, "-c", preexec, *command]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        pass_fds=pass_fds,
    )
    running = Command(process)
    try:
        yield running
    finally:
        running.close()


@contextlib.contextmanager
def serving_application(folder: Path, *arguments: str, **more: object) -> Generator[Command]:
    """The same, when it serves."""
    with serving_command(folder, *arguments, **more) as command:  # type: ignore[arg-type]
        command.until(r"\] serving ")
        yield command


def refused(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> list[str]:
    """What the command says that cannot start; its exit code has to be 2."""
    with serving_command(folder, *arguments, environment=environment) as command:
        assert command.wait() == 2, command.lines
        return command.lines


def ask(port: int, question: bytes = b"x\n") -> bytes:
    """The whole answer of a server to a client that then finishes."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        sock.sendall(question)
        sock.shutdown(socket.SHUT_WR)
        return receive_all(sock)


def receive_all(sock: socket.socket) -> bytes:
    """What comes until the connection ends."""
    received = b""
    while block := sock.recv(64 * 1024):
        received += block
    return received


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of an HTTP answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(port: int) -> dict[str, float]:
    """The samples that Prometheus would see."""
    status, text = get(port, "/metrics")
    assert status == 200
    samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix("aiosocketserver_"): float(value) for name, _, value in samples}

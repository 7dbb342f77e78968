"""What servers do with clients that misbehave: `python -m benchmarks.faults`, from the root.

Each echo server of the benchmarks, in a process of its own, meets the same faults, and
the table tells what became of it. Linux only; bounded to about half a minute a server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What is sent to an echo server by a client that does not read, at most.
MOST = 64 * 1024 * 1024


@dataclass
class Server:
    """One echo server, and what it says on standard error."""

    process: subprocess.Popen[str]
    address: tuple[str, int]
    errors: Path

    def memory(self) -> int:
        """Bytes that no file backs."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    def cpu_time(self) -> float:
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=5)

    def echoes(self, timeout: float = 5) -> float | None:
        """Seconds that one new client waits for its echo; None when it has none."""
        begun = time.monotonic()
        try:
            with self.connect() as sock:
                sock.settimeout(timeout)
                sock.sendall(b"hello\n")
                return time.monotonic() - begun if sock.recv(6) else None
        except OSError:
            return None


SERVERS: dict[str, list[str]] = {
    "aiosocketserver": ["coroutines", "echo"],
    "aiosocketserver, uvloop": ["coroutines", "echo", "--loop", "uvloop"],
    "asyncio streams": ["streams", "echo"],
    "asyncio streams, uvloop": ["streams", "echo", "--loop", "uvloop"],
    "asyncio protocol, uvloop": ["protocols", "echo", "--loop", "uvloop"],
    "socketserver": ["legacy", "socketserver", "echo"],
    "gevent": ["libraries.gevent_servers", "echo"],
    "trio": ["libraries.trio_streams", "echo"],
}


@contextlib.contextmanager
def running(command: list[str], descriptors: int | None = None) -> Generator[Server]:
    def limit() -> None:
        if descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        module, *arguments = command
        with errors.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.servers.{module}", *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                preexec_fn=limit,
            )
        try:
            assert process.stdout is not None
            yield Server(process, ("127.0.0.1", int(process.stdout.readline())), errors)
        finally:
            process.kill()
            process.communicate()


def never_reads(command: list[str]) -> str:
    """A client sends 64 MiB, or as much as is taken, and reads nothing of the echo."""
    with running(command) as server:
        server.echoes()
        before = server.memory()
        with server.connect() as sock:
            sock.settimeout(1)
            sent = 0
            with contextlib.suppress(OSError):
                while sent < MOST:
                    sent += sock.send(bytes(256 * 1024))
            grown = max(0, server.memory() - before)
    taken = "all" if sent >= MOST else f"{sent / 2**20:.1f} MiB"
    return f"{grown / 2**20:.1f} MiB more memory ({taken} taken)"


def sends_without_pause(command: list[str]) -> str:
    """Two clients send as fast as they can and read; another one asks ten times."""
    with running(command) as server:
        blasters = [
            subprocess.Popen(
                [sys.executable, "-c", BLASTER, str(server.address[1])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]
        try:
            time.sleep(0.5)
            waits = [server.echoes() for _ in range(10)]
        finally:
            for blaster in blasters:
                blaster.kill()
                blaster.wait()
    if any(wait is None for wait in waits):
        return "another client had no answer in 5 s"
    return f"another client waits {max(wait for wait in waits if wait is not None) * 1000:.0f} ms"


BLASTER = """
import socket, sys, threading
sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def read():
    while sock.recv(1 << 16):
        pass
threading.Thread(target=read, daemon=True).start()
while True:
    sock.sendall(bytes(1 << 16))
"""


def out_of_descriptors(command: list[str]) -> str:
    """64 descriptors, and 200 clients at once, each of which wants one echo."""
    with running(command, descriptors=64) as server:
        clients = [server.connect() for _ in range(200)]
        before = server.cpu_time()
        time.sleep(1)
        busy = server.cpu_time() - before
        served = 0
        for client in clients:
            try:
                client.settimeout(2)
                client.sendall(b"hello\n")
                served += client.recv(6) == b"hello\n"
            except OSError:
                pass
            client.close()
        lines = len(server.errors.read_text().splitlines())
        alive = server.process.poll() is None
    told = f"{served} of 200 served, {busy * 100:.0f} % CPU while short, {lines} lines logged"
    return told if alive else f"{told}, then it ended"


def resets(command: list[str]) -> str:
    """300 clients send a line and reset their connection."""
    with running(command) as server:
        for number in range(300):
            try:
                sock = server.connect()
            except ConnectionError:
                return f"the server has ended after {number}"
            sock.sendall(b"hello\n")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
            sock.close()
        served = server.echoes() is not None
        time.sleep(0.5)
        lines = len(server.errors.read_text().splitlines())
        left = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    state = "serves on" if served else "serves nobody any more"
    return f"{state}, {lines} lines on standard error, {left} descriptors"


FAULTS: dict[str, Callable[[list[str]], str]] = {
    "never reads": never_reads,
    "sends without pause": sends_without_pause,
    "no descriptors left": out_of_descriptors,
    "resets": resets,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--servers", default="", metavar="TEXT", help="only those so named")
    text = parser.parse_args().servers
    servers = {name: command for name, command in SERVERS.items() if text in name}
    if not servers:
        parser.error(f"--servers: {text!r} is in none of {', '.join(map(repr, SERVERS))}")
    print("|  | " + " | ".join(FAULTS) + " |")
    print("| --- |" + " --- |" * len(FAULTS))
    for name, command in servers.items():
        print(f"| {name} |", end="", flush=True)
        for meet in FAULTS.values():
            try:
                told = meet(command)
            except (OSError, ValueError) as error:
                told = f"could not be tried: {error}"
            print(f" {told} |", end="", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()

"""Hundreds of thousands of connections of all kinds, with faults mixed in: `make soak`.

    python -m benchmarks.soak [--visits N] [--loop asyncio|uvloop] [--output FOLDER]

A server process has every kind of server; clients visit it, well-behaved ones and
others. Meanwhile its certificate is loaded anew and the time of day jumps each second, and
every ten seconds it is stopped for one. At the end its descriptors, threads and tasks have
to be what they were after the first tenth, and its memory no more than a fifth larger. It
prints a table, draws a plot, and ends with 1 when something has grown. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import socketserver
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trustme

import aiosocketserver

ROOT = Path(__file__).resolve().parent.parent

# Visits at once.
VISITORS = 64

# Seconds after the last visit for closing connections and idle threads to end.
SETTLING = 15


# Seconds between two stops of the server's process, and how long one lasts.
STOPS = 10
STOPPED = 1

# What a server that was busy may keep: the workers of datagrams.
KEPT = {"tasks": 64}

# --- the server process


class Echo(aiosocketserver.StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            if line == b"fail\n":
                raise LookupError(line)
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class EchoDatagram(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        await sock.sendto(data, self.client_address)


def make_servers(folder: Path, certificate: Path) -> dict[str, Any]:
    limits: aiosocketserver.ServerOptions = {
        "read_timeout": 2.0,
        "write_timeout": 2.0,
        "handshake_timeout": 2.0,
        "linger_timeout": 1.0,
    }
    encrypted: Any = {"ssl_context": aiosocketserver.CertificateFiles(certificate)}
    here = ("127.0.0.1", 0)
    return {
        "tcp": aiosocketserver.TCPServer(here, Echo, **limits),
        "tls": aiosocketserver.TCPServer(here, Echo, **limits, **encrypted),
        "threads": aiosocketserver.ThreadingTCPServer(here, LegacyEcho, idle_timeout=2.0),
        "children": aiosocketserver.ForkingTCPServer(here, LegacyEcho, idle_timeout=2.0),
        # Without time-outs, which would hide a handler that nobody wakes.
        "greenlets": aiosocketserver.GreenletTCPServer(here, LegacyEcho),
        "unix": aiosocketserver.UnixStreamServer(str(folder / "socket"), Echo, **limits),
        "udp": aiosocketserver.UDPServer(here, EchoDatagram),
    }


def ignore(request: Any, client_address: Any) -> None:
    """For `handle_error`."""


def sample(servers: dict[str, Any]) -> dict[str, float]:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return {
        "seconds": time.monotonic(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "memory": int(line.split()[1]) / 1024,
        "requests": sum(server.statistics.accepted for server in servers.values()),
        "active": sum(server.statistics.active for server in servers.values()),
    }


async def serve(folder: Path) -> None:
    """Serve until standard input ends; a sample each second on standard output."""
    certificate = folder / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(certificate)
    )
    time_of_day = time.time
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(0, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        servers = make_servers(folder, certificate)
        for server in servers.values():
            # What fails on purpose is not to be logged.
            server.handle_error = ignore
            await stack.enter_async_context(server)
            await server.start_serving()
        print(json.dumps({name: server.server_address for name, server in servers.items()}))
        while not ended.is_set():
            print(json.dumps(sample(servers)), flush=True)
            servers["tls"].reload_tls()
            jump = random.choice([-86_400, 0, 86_400])
            time.time = lambda jump=jump: time_of_day() + jump  # type: ignore[misc]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await ended.wait()


# --- the visitors


class Visitors:
    """Clients of all kinds, good and bad."""

    def __init__(self, addresses: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._addresses = {
            name: address if isinstance(address, str) else tuple(address)
            for name, address in addresses.items()
        }
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self.counts: Counter[str] = Counter()
        # How many of a hundred visits are of each kind.
        self._kinds: dict[Callable[[], Awaitable[None]], int] = {
            self.echo: 40,
            self.reset: 10,
            self.reset_in_the_middle: 5,
            self.too_long: 4,
            self.half_a_line: 1,
            self.never_reads: 1,
            self.failing: 4,
            self.tls: 4,
            self.tls_rubbish: 4,
            self.tls_silent: 1,
            self.thread: 8,
            self.child: 2,
            self.greenlet: 6,
            self.reset_behind_data: 4,
            self.datagram: 6,
        }

    async def visit(self) -> None:
        """One visit of any kind."""
        (kind,) = random.choices(list(self._kinds), list(self._kinds.values()))
        self.counts[kind.__name__] += 1
        with contextlib.suppress(OSError):
            await kind()

    async def _connect(self, name: str) -> socket.socket:
        address = self._addresses[name]
        sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        sock.setblocking(False)
        try:
            await self._loop.sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _echo(self, name: str) -> None:
        with await self._connect(name) as sock:
            await self._loop.sock_sendall(sock, b"hello\n")
            answer = await self._loop.sock_recv(sock, 100)
            if answer != b"hello\n":
                raise AssertionError(f"{name}: the answer is {answer!r}")

    async def echo(self) -> None:
        await self._echo(random.choice(["tcp", "unix"]))

    async def thread(self) -> None:
        await self._echo("threads")

    async def child(self) -> None:
        await self._echo("children")

    async def greenlet(self) -> None:
        await self._echo("greenlets")

    async def reset_behind_data(self) -> None:
        sock = await self._connect(random.choice(["greenlets", "tcp", "threads"]))
        await self._loop.sock_sendall(sock, b"hel")
        self._reset(sock)

    @staticmethod
    def _reset(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        sock.close()

    async def reset(self) -> None:
        self._reset(await self._connect(random.choice(["tcp", "tls", "threads"])))

    async def reset_in_the_middle(self) -> None:
        sock = await self._connect("tcp")
        await self._loop.sock_sendall(sock, b"hello\n" * 1000)
        self._reset(sock)

    async def too_long(self) -> None:
        with await self._connect("tcp") as sock:
            await self._loop.sock_sendall(sock, b"x" * 70_000)
            await self._loop.sock_recv(sock, 100)

    async def half_a_line(self) -> None:
        with await self._connect("tcp") as sock:
            await self._loop.sock_sendall(sock, b"hel")
            await self._loop.sock_recv(sock, 100)

    async def never_reads(self) -> None:
        with await self._connect("tcp") as sock, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    await self._loop.sock_sendall(sock, b"x" * 60_000 + b"\n")

    async def failing(self) -> None:
        with await self._connect("tcp") as sock:
            await self._loop.sock_sendall(sock, b"fail\n")
            await self._loop.sock_recv(sock, 100)

    async def tls(self) -> None:
        reader, writer = await asyncio.open_connection(*self._addresses["tls"], ssl=self._context)
        try:
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def tls_rubbish(self) -> None:
        with await self._connect("tls") as sock:
            await self._loop.sock_sendall(sock, os.urandom(500))
            await self._loop.sock_recv(sock, 100)

    async def tls_silent(self) -> None:
        with await self._connect("tls") as sock:
            await self._loop.sock_recv(sock, 100)

    async def datagram(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(self._addresses["udp"])
            sock.setblocking(False)
            sock.send(b"hello")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._loop.sock_recv(sock, 100)


async def visit_all(visits: int, process: asyncio.subprocess.Process) -> list[dict[str, float]]:
    assert process.stdout is not None
    assert process.stdin is not None
    visitors = Visitors(json.loads(await process.stdout.readline()))
    samples: list[dict[str, float]] = []
    left = visits

    async def collect() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            samples.append(json.loads(line))
            if len(samples) % 10 == 0:
                print(f"{visits - left:,} of {visits:,} visits", file=sys.stderr)

    async def go_on_visiting() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await visitors.visit()

    async def stop_and_continue() -> None:
        while True:
            await asyncio.sleep(STOPS)
            process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(STOPPED)
            finally:
                process.send_signal(signal.SIGCONT)

    collecting = asyncio.create_task(collect())
    stopping = asyncio.create_task(stop_and_continue())
    await asyncio.gather(*(go_on_visiting() for _ in range(VISITORS)))
    stopping.cancel()
    await asyncio.sleep(SETTLING)
    process.stdin.close()
    await collecting
    await process.wait()
    for kind, count in sorted(visitors.counts.items()):
        print(f"{kind.replace('_', ' '):20} {count:>9,}")
    return samples


# --- what became of it


def draw(samples: list[dict[str, float]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    names = ("descriptors", "threads", "tasks", "memory")
    figure, axes = plt.subplots(len(names), 1, sharex=True, figsize=(8, 8), layout="tight")
    seconds = [one["seconds"] - samples[0]["seconds"] for one in samples]
    for axis, name in zip(axes, names, strict=True):
        axis.plot(seconds, [one[name] for one in samples])
        axis.set_ylabel(name if name != "memory" else "memory, MiB")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path)  # pyright: ignore[reportUnknownMemberType]


def judge(samples: list[dict[str, float]]) -> bool:
    """Print what there was at the beginning, at most, and at the end; whether it is flat."""
    total = samples[-1]["requests"]
    early = next(one for one in samples if one["requests"] >= total / 10)
    first, last = samples[0], samples[-1]
    print(f"\n{total:,.0f} requests in {last['seconds'] - first['seconds']:.0f} s\n")
    print(f"{'':14}{'first':>10}{'a tenth':>10}{'most':>10}{'last':>10}")
    flat = True
    for name in ("descriptors", "threads", "tasks", "active", "memory"):
        most = max(one[name] for one in samples)
        values = (first[name], early[name], most, last[name])
        print(f"{name:14}" + "".join(f"{value:>10.0f}" for value in values))
        allowed = early[name] * 1.2 if name == "memory" else first[name] + KEPT.get(name, 0)
        flat = flat and last[name] <= allowed
    print("\nflat" if flat else "\nSOMETHING HAS GROWN")
    return flat


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--visits", type=int, default=200_000, help="%(default)s")
    parser.add_argument("--loop", default="uvloop", choices=("asyncio", "uvloop"))
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "soak", help="for the plot: %(default)s"
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if arguments.loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if arguments.serve:
            runner.run(serve(arguments.serve))
            return
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        samples = runner.run(run(arguments.visits, arguments.loop, folder))
    arguments.output.mkdir(parents=True, exist_ok=True)
    plot = arguments.output / "soak.svg"
    draw(samples, plot)
    flat = judge(samples)
    print(f"the plot: {plot}")
    sys.exit(not flat)


async def run(visits: int, loop: str, folder: str) -> list[dict[str, float]]:
    command = ["-m", "benchmarks.soak", "--loop", loop, "--serve", folder]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        return await visit_all(visits, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    main()

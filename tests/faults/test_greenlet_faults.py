"""The faults that handlers meet, with legacy handlers in greenlets."""

import asyncio
import contextlib
import resource
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import GreenletTCPServer, ShutdownReport, StreamSocket, TCPServer
from aiosocketserver._in_greenlet import HandlerGreenlet
from tests.greenlet_support import greenlet_server, handling
from tests.support import Peer, ask, client_of, until, until_later

IDLE = 9_600
ACTIVE = 100


class Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def reset(sock: socket.socket) -> None:
    """Close with a reset and no end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    sock.close()


def are_active(server: TCPServer, number: int) -> bool:
    return server.statistics.active == number


def is_quiet(caplog: pytest.LogCaptureFixture) -> bool:
    return not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


@pytest.mark.timeout(120)
async def test_ten_thousand_idle_connections_and_a_hundred_active_ones_in_one_thread() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends are in this process, and the test's own descriptors.
    idle = min(IDLE, (most - 2 * ACTIVE - 200) // 2)
    assert idle >= 1000, f"the limit of descriptors is too low for this test: {most}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    threads = threading.active_count()
    slowest = 0.0

    async def talk(stack: contextlib.AsyncExitStack) -> None:
        nonlocal slowest
        client = await stack.enter_async_context(client_of(server.server_address))
        for _ in range(50):
            begun = time.monotonic()
            await client.send(b"hello\n")
            assert await client.receive(6) == b"hello\n"
            slowest = max(slowest, time.monotonic() - begun)

    async with (
        contextlib.AsyncExitStack() as stack,
        greenlet_server(Lines, request_queue_size=4096, blocking_warning=None) as server,
    ):
        await server.start_serving()
        for n in range(1, idle + 1):
            await stack.enter_async_context(client_of(server.server_address))
            if n % 1000 == 0:
                await until(partial(are_active, server, n))
        await until(lambda: server.statistics.active == idle)
        await asyncio.gather(*(talk(stack) for _ in range(ACTIVE)))
        statistics = server.statistics
        assert statistics.active == idle + ACTIVE
        assert threading.active_count() == threads
        assert (statistics.handlers_failed, statistics.clients_vanished) == (0, 0)
        assert slowest < 5
        await server.shutdown(0)


class Stages(socketserver.StreamRequestHandler):
    """Waits for its client where its first line says."""

    def handle(self) -> None:
        stage = self.rfile.readline().strip()
        match stage:
            case b"recv":
                self.request.recv(100)
            case b"readline":
                self.rfile.readline()
            case b"sendall":
                while True:
                    self.request.sendall(bytes(100_000))
            case b"write":
                while True:
                    self.wfile.write(bytes(100_000))
            case b"sendfile":
                with Path("/proc/self/exe").open("rb") as file:
                    while True:
                        self.request.sendfile(file)
            case _:
                self.wfile.write(stage)


@pytest.mark.parametrize(
    "stage", [b"recv", b"readline", b"sendall", b"write", b"sendfile"], ids=bytes.decode
)
async def test_a_reset_while_the_handler_waits(
    stage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def waits() -> bool:
        for entry in server._requests:
            sock = entry.request
            if isinstance(sock, StreamSocket) and sock._received:
                if stage in (b"recv", b"readline"):
                    return sock._read_waiter.waiting
                return sock._writer_registered
        return False

    async with greenlet_server(Stages) as server:
        await server.start_serving()
        sock = socket.create_connection(server.server_address)
        sock.sendall(stage + b"\n")
        await until(waits)
        reset(sock)
        await until(lambda: server.statistics.finished == 1)
        # The next one is served.
        assert await ask(server.server_address, b"hello\n") == b"hello"
        assert server.statistics.handlers_failed == 0
    assert server.statistics.clients_vanished == 1
    assert is_quiet(caplog)


async def test_a_client_that_sends_without_end_and_never_reads() -> None:
    def echo(handler: Any) -> None:
        while data := handler.request.recv(64 * 1024):
            handler.request.sendall(data)

    async with greenlet_server(handling(echo)) as server:
        await server.start_serving()
        async with client_of(server.server_address) as flooder:
            flood = asyncio.create_task(flooder.send(bytes(64 * 1024 * 1024)))
            sent = -1
            while sent != server.statistics.bytes_received:
                sent = server.statistics.bytes_received
                await asyncio.sleep(0.1)
            assert not flood.done()
            assert await ask(server.server_address, b"hello") == b"hello"
            flood.cancel()
            await server.shutdown(0)


async def test_a_client_that_reads_nothing_for_ever_is_cut_by_write_timeout() -> None:
    async with greenlet_server(Stages, write_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"sendall\n")
            await until_later(lambda: server.statistics.finished == 1)
    assert server.statistics.timed_out == {"write_timeout": 1}
    assert server.statistics.handlers_failed == 0


class Stuck(socketserver.StreamRequestHandler):
    """Does what its first line says, which is never to end."""

    def handle(self) -> None:
        match self.rfile.readline().strip():
            case b"waits for a coroutine":
                self.server.run_on_loop(asyncio.Event().wait)  # type: ignore[attr-defined]
            case b"waits for its client":
                self.rfile.readline()
            case b"swallows":
                while not RELEASE.is_set():
                    with contextlib.suppress(asyncio.CancelledError, OSError):
                        self.server.run_blocking(time.sleep, 0.1)  # type: ignore[attr-defined]
            case _:
                while True:
                    self.wfile.write(bytes(100_000))


RELEASE = threading.Event()


async def test_a_shutdown_that_meets_handlers_which_do_not_want_to_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    RELEASE.clear()

    async def ask_for(what: bytes, stack: contextlib.AsyncExitStack) -> Peer:
        client = await stack.enter_async_context(client_of(server.server_address))
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.send(what + b"\n")
        return client

    async with contextlib.AsyncExitStack() as stack:
        server: GreenletTCPServer = await stack.enter_async_context(greenlet_server(Stuck))
        await server.start_serving()
        for what in (b"waits for a coroutine", b"waits for its client", b"swallows", b"writes"):
            await ask_for(what, stack)
        await until_later(lambda: server.statistics.bytes_received > 50)
        report = await server.shutdown(0.2)
        assert report == ShutdownReport(finished=0, cut=4, abandoned=1)
        (line,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert "did not end when it was cut, and is abandoned" in line
        RELEASE.set()
        await until_later(lambda: not server._requests)


class Everything(socketserver.StreamRequestHandler):
    """Uses every way to wait, and says when something has arrived for certain."""

    def handle(self) -> None:
        server: Any = self.server
        self.wfile.write(self.rfile.readline())
        self.request.sendall(self.rfile.read(300_000))
        self.wfile.write(server.run_blocking(bytes, 10))
        server.run_on_loop(asyncio.sleep, 0)
        self.request.settimeout(20)
        self.wfile.write(self.request.recv(1))
        self.wfile.write(b"x" * 300_000)


async def visit_everything(address: Any) -> None:
    async with client_of(address) as client:
        with contextlib.suppress(OSError):
            await client.send(b"hello\n")
            await client.receive(6)
            await client.send(bytes(300_000))
            await client.receive(300_010)
            await client.send(b"y")
            await client.receive_all()


async def test_cancelled_at_each_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wait: Callable[[HandlerGreenlet, Any], None] = HandlerGreenlet.wait
    left = 0

    def wait_or_be_cancelled(self: HandlerGreenlet, awaited: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            self._pool.loop.call_soon(self.cancel, "by the test")
        wait(self, awaited)

    monkeypatch.setattr(HandlerGreenlet, "wait", wait_or_be_cancelled)
    n = 0
    async with greenlet_server(Everything) as server:
        await server.start_serving()
        while left <= 0:
            n += 1
            left = n
            await visit_everything(server.server_address)
            await until_later(partial(has_finished, server, n))
    # It got through to its end in the last one, and was cut at each wait before.
    assert n > 5
    assert server.statistics.handlers_failed == 0
    assert is_quiet(caplog)


def has_finished(server: TCPServer, number: int) -> bool:
    return server.statistics.finished == number

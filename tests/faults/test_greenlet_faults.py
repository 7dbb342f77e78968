"""Faults that legacy handlers in greenlets meet in their own way. Others: the files beside."""

import asyncio
import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aiosocketserver import GreenletTCPServer, ShutdownReport, TCPServer
from aiosocketserver.greenlets.pool import HandlerGreenlet
from tests.greenlet_support import greenlet_server, handling
from tests.support import Peer, client_of, until_later


async def test_a_client_that_reads_nothing_for_ever_is_cut_by_write_timeout() -> None:
    def flood(handler: Any) -> None:
        while True:
            handler.request.sendall(bytes(100_000))

    async with greenlet_server(handling(flood), write_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address):
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
        await until_later(lambda: not server.requests())


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
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


def has_finished(server: TCPServer, number: int) -> bool:
    return server.statistics.finished == number

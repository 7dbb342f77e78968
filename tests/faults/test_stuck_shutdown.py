"""A shutdown that meets handlers which do not want to end, all of them at once."""

import asyncio
import contextlib
import socket
import socketserver
import threading
import time

import pytest

from aiosocketserver import ShutdownReport, StreamRequestHandler, TCPServer, ThreadingTCPServer
from tests.support import Peer, client_of, until_later

LOCALHOST = ("127.0.0.1", 0)


class Stuck(StreamRequestHandler):
    """Does what its first line says, which is never to end."""

    async def handle(self) -> None:
        match (await self.rfile.readline()).strip():
            case b"never ends":
                await asyncio.Event().wait()
            case b"waits for its client":
                await self.rfile.readline()
            case b"swallows":
                while not RELEASE.is_set():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.1)
            case _:
                # Its finish() writes to a client that does not read.
                while True:
                    await self.wfile.write(bytes(100_000))


RELEASE = threading.Event()


class LegacyStuck(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        if self.rfile.readline().strip() == b"sleeps":
            while not RELEASE.is_set():
                time.sleep(0.1)
        else:
            self.rfile.readline()


async def ask_for(server: TCPServer, what: bytes, stack: contextlib.AsyncExitStack) -> Peer:
    client = await stack.enter_async_context(client_of(server.server_address))
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await client.send(what + b"\n")
    return client


async def test_tasks_end_or_are_abandoned_at_the_deadline_and_its_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    RELEASE.clear()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(TCPServer(LOCALHOST, Stuck))
        await server.start_serving()
        for what in (b"never ends", b"waits for its client", b"swallows", b"writes"):
            await ask_for(server, what, stack)
        await until_later(lambda: server.statistics.bytes_received > 40)
        begun = loop.time()
        report = await server.shutdown(0.2)
        # The deadline, and a second twice.
        assert 2.1 < loop.time() - begun < 4
        assert report == ShutdownReport(finished=0, cut=4, abandoned=1)
        (line,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert "did not end when it was cut, and is abandoned" in line
        RELEASE.set()
        await until_later(lambda: not server.requests())


async def test_threads_end_or_are_abandoned_too(caplog: pytest.LogCaptureFixture) -> None:
    RELEASE.clear()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(ThreadingTCPServer(LOCALHOST, LegacyStuck))
        await server.start_serving()
        for what in (b"waits for its client", b"sleeps"):
            await ask_for(server, what, stack)
        await until_later(lambda: server.statistics.active == 2)
        assert await server.shutdown(0.2) == ShutdownReport(finished=0, cut=2, abandoned=1)
        (line,) = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
        assert "the thread 'Thread-" in line
        RELEASE.set()
        await until_later(lambda: not server.requests())


async def test_the_time_of_day_may_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are timed by a clock that only goes forward."""
    jump = 0.0
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)

    class Echo(StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(line)

    limits = {"read_timeout": 30.0, "idle_timeout": 30.0, "request_timeout": 60.0}
    async with TCPServer(LOCALHOST, Echo, **limits) as server:  # type: ignore[arg-type]
        await server.start_serving()
        async with client_of(server.server_address) as client:
            for seconds in (1e9, -1e9):
                await client.send(b"half ")
                jump = seconds
                await client.send(b"a line\n")
                assert await client.receive(12) == b"half a line\n"
        assert not server.statistics.timed_out

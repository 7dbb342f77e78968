"""How handlers learn that the server shuts down, and what it reports."""

import asyncio
import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    ShutdownReport,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
)
from tests.support import Peer, ask, client_of, until, until_queued
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)


class Polite(StreamRequestHandler):
    """Ends between two lines when the server drains."""

    async def handle(self) -> None:
        self.request.end_when_draining()
        async for line in self.rfile:
            await self.wfile.write(line)
        await self.wfile.write(b"bye\n")


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


@contextlib.asynccontextmanager
async def echoed(server: TCPServer) -> AsyncIterator[Peer]:
    """A client that had an answer."""
    async with client_of(server.server_address) as client:
        await client.send(b"x\n")
        assert await client.receive(2) == b"x\n"
        yield client


async def test_a_connection_between_two_requests_ends_at_once() -> None:
    async with TCPServer(LOCALHOST, Polite) as server:
        await server.start_serving()
        async with echoed(server) as client:
            assert not server.draining
            shutdown = asyncio.create_task(server.shutdown(10))
            assert await client.receive_all() == b"bye\n"
            client.sock.close()
            assert await shutdown == ShutdownReport(finished=1, cut=0, abandoned=0)
            assert server.draining


async def test_a_request_that_has_begun_is_read_and_answered() -> None:
    async with TCPServer(LOCALHOST, Polite) as server:
        await server.start_serving()
        async with echoed(server) as client:
            before = server.statistics.bytes_received
            await client.send(b"half a ")
            await until(lambda: server.statistics.bytes_received > before)
            shutdown = asyncio.create_task(server.shutdown(10))
            await until(lambda: server.draining)
            # Long enough to be cut, if that were to happen.
            await asyncio.sleep(0.05)
            await client.send(b"line\n")
            assert await client.receive_all() == b"half a line\nbye\n"
            client.sock.close()
            assert (await shutdown).cut == 0


async def test_a_connection_that_had_no_request_yet_is_waited_for() -> None:
    """It may come from the backlog, with its request behind it."""
    async with TCPServer(LOCALHOST, Polite) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            shutdown = asyncio.create_task(server.shutdown(10))
            await until(lambda: server.draining)
            await until(lambda: server.requests())
            await asyncio.sleep(0.05)
            await client.send(b"x\n")
            assert await client.receive_all() == b"x\nbye\n"
            client.sock.close()
            assert await shutdown == (1, 0, 0)


async def test_a_handler_that_is_busy_ends_at_its_next_wait() -> None:
    go_on = asyncio.Event()

    class Busy(StreamRequestHandler):
        async def handle(self) -> None:
            self.request.end_when_draining()
            while line := await self.rfile.readline():
                await go_on.wait()
                await self.wfile.write(line)

    async with TCPServer(LOCALHOST, Busy) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"x\n")
            await until(lambda: server.statistics.bytes_received)
            shutdown = asyncio.create_task(server.shutdown(10))
            await until(lambda: server.draining)
            go_on.set()
            assert await client.receive_all() == b"x\n"
            client.sock.close()
            assert (await shutdown).cut == 0


async def test_it_can_be_taken_back() -> None:
    class Fickle(StreamRequestHandler):
        async def handle(self) -> None:
            self.request.end_when_draining()
            await self.wfile.write(await self.rfile.readline())
            self.request.end_when_draining(False)
            await self.wfile.write(await self.rfile.readline())

    async with TCPServer(LOCALHOST, Fickle) as server:
        await server.start_serving()
        async with echoed(server) as client:
            shutdown = asyncio.create_task(server.shutdown(10))
            await until(lambda: server.draining)
            await client.send(b"y\n")
            assert await client.receive_all() == b"y\n"
            client.sock.close()
            assert (await shutdown).cut == 0


async def test_bare_sockets_and_tls_end_too(tmp_path: Path) -> None:
    class Bare(BaseRequestHandler):
        async def handle(self) -> None:
            self.request.end_when_draining()
            while data := await self.request.recv(100):
                await self.request.sendall(data)
            await self.request.sendall(b"bye")

    certificates = Certificates.make(tmp_path)
    async with TCPServer(LOCALHOST, Bare, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        async with tls_client(server.server_address, certificates.client_context()) as streams:
            reader, writer = streams
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            shutdown = asyncio.create_task(server.shutdown(10))
            assert await reader.read() == b"bye"
            writer.close()
            assert await shutdown == (1, 0, 0)
    assert server.statistics.clients_vanished == 0


async def test_a_tls_handshake_that_the_client_has_asked_for_is_waited_for(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    said, may_go_on = threading.Event(), threading.Event()

    class StartTLS(StreamRequestHandler):
        async def handle(self) -> None:
            self.request.end_when_draining()
            await self.rfile.readline()
            await self.wfile.write(b"go\n")
            await self.wfile.flush()
            await self.request.start_tls(certificates.server_context())
            async for line in self.rfile:
                await self.wfile.write(line.upper())

    def client(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, 20) as sock:
            sock.sendall(b"STARTTLS\n")
            assert sock.recv(3) == b"go\n"
            said.set()
            assert may_go_on.wait(20)
            context = certificates.client_context()
            with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                # Between two messages, the handler ends.
                return secured.recv(100)

    async with TCPServer(LOCALHOST, StartTLS) as server:
        await server.start_serving()
        answer = asyncio.create_task(asyncio.to_thread(client, server.server_address))
        await asyncio.to_thread(said.wait, 20)
        await until(lambda: any(shown.waits_for == "reading" for shown in server.requests()))
        shutdown = asyncio.create_task(server.shutdown(10))
        await until(lambda: server.draining)
        may_go_on.set()
        assert await answer == b""
        assert (await shutdown).cut == 0
    assert server.statistics.clients_vanished == 0


async def test_without_it_an_idle_connection_is_cut_at_the_deadline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        async with echoed(server) as first, echoed(server) as second:
            shutdown = asyncio.create_task(server.shutdown(0.3))
            await until(lambda: server.draining)
            first.finish()
            assert await first.receive_all() == b""
            first.sock.close()
            assert await second.receive_all() == b""
            second.sock.close()
            assert await shutdown == ShutdownReport(finished=1, cut=1, abandoned=0)
    assert "shut down: 1 requests finished, 1 were cut" in caplog.text


async def test_the_event_can_be_waited_for_and_is_cleared_by_serving_again() -> None:
    class Waits(StreamRequestHandler):
        async def handle(self) -> None:
            await self.server.drain_event.wait()
            await self.wfile.write(b"drained")

    async with TCPServer(LOCALHOST, Waits) as server:
        await server.start_serving()
        for _ in range(2):
            async with client_of(server.server_address) as client:
                await until(lambda: server.requests())
                shutdown = asyncio.create_task(server.shutdown(10))
                assert await client.receive_all() == b"drained"
                client.sock.close()
                await shutdown
            await server.start_serving()
            assert not server.draining


async def test_one_request_after_a_shutdown_is_not_hurried() -> None:
    async with TCPServer(LOCALHOST, Polite) as server:
        await server.start_serving()
        await server.shutdown()
        one = asyncio.create_task(server.handle_request())
        async with echoed(server) as client:
            assert not server.draining
            await client.send(b"y\n")
            assert await client.receive(2) == b"y\n"
        await one


async def test_a_legacy_handler_can_look() -> None:
    class Looks(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server: Any = self.server
            while not server.draining:
                time.sleep(0.01)
            self.request.sendall(b"drained")

    async with ThreadingTCPServer(LOCALHOST, Looks) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.requests())
            shutdown = asyncio.create_task(server.shutdown(10))
            assert await client.receive_all() == b"drained"
            client.sock.close()
            assert await shutdown == (1, 0, 0)


async def test_what_resists_is_reported() -> None:
    entered = asyncio.Event()
    release = asyncio.Event()

    class Resists(StreamRequestHandler):
        async def handle(self) -> None:
            entered.set()
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

    async with TCPServer(LOCALHOST, Resists) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await entered.wait()
            assert await server.shutdown(0) == ShutdownReport(finished=0, cut=1, abandoned=1)
            # Another shutdown does not wait for it again.
            assert await server.shutdown(None) == ShutdownReport(finished=0, cut=0, abandoned=0)
            # Its connection was reset.
            with pytest.raises(ConnectionResetError):
                await client.receive_all()
        release.set()
        await until(lambda: not server.requests())


async def test_all_in_flight_and_in_the_backlog_are_answered() -> None:
    """1,000 requests under way, and 200 that wait to be accepted."""

    class Slow(StreamRequestHandler):
        async def handle(self) -> None:
            line = await self.rfile.readline()
            await self.server.drain_event.wait()
            await self.wfile.write(line)

    async with TCPServer(LOCALHOST, Slow, max_connections=1000) as server:
        await server.start_serving()
        answers = [asyncio.create_task(ask(server.server_address, b"x\n")) for _ in range(1000)]
        await until(lambda: server.statistics.active == 1000)
        answers += [asyncio.create_task(ask(server.server_address, b"x\n")) for _ in range(200)]
        await until(lambda: server.statistics.accept_pauses)
        await until_queued(server, 200)
        report = await server.shutdown(30)
        assert await asyncio.gather(*answers) == [b"x\n"] * 1200
        assert report == ShutdownReport(finished=1200, cut=0, abandoned=0)

"""A shutdown does not wait for idle clients of legacy handlers either, where the kernel tells.

As in test_idle_clients.py, the clients never close first, and `shutdown(None)` has no deadline.
"""

import asyncio
import contextlib
import http.server
import socketserver
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    GreenletTCPServer,
    GreenletUnixStreamServer,
    TCPServer,
    ThreadingTCPServer,
)
from tests.support import Peer, client_of, until, until_later
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)

knows_silence = pytest.mark.skipif(
    sys.platform != "linux", reason="what a thread's connection has last seen is Linux' TCP_INFO"
)
SERVERS = [pytest.param(ThreadingTCPServer, marks=knows_silence), GreenletTCPServer]


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())
        self.wfile.write(b"bye\n")


class Sink(socketserver.StreamRequestHandler):
    """Never says anything."""

    def handle(self) -> None:
        for _ in self.rfile:
            pass


@contextlib.asynccontextmanager
async def serving(
    server_class: type[TCPServer], handler: type[Any], address: Any = LOCALHOST, **options: Any
) -> AsyncIterator[TCPServer]:
    # No deadline for those that are closing, too.
    options |= {"end_when_draining": True, "linger_timeout": 3600}
    async with server_class(address, handler, **options) as server:
        await server.start_serving()
        yield server


@contextlib.asynccontextmanager
async def draining(server: TCPServer) -> AsyncIterator[None]:
    """The body runs while the server shuts down, and waits until it has done so."""
    shutdown = asyncio.create_task(server.shutdown(None))
    await until(lambda: server.draining)
    yield
    assert (await shutdown).cut == 0


async def answered(client: Peer) -> None:
    await client.send(b"x\n")
    assert await client.receive(2) == b"X\n"


@pytest.mark.parametrize("server_class", SERVERS)
async def test_clients_that_were_answered_or_said_nothing(server_class: type[TCPServer]) -> None:
    async with (
        serving(server_class, Echo) as server,
        client_of(server.server_address) as one,
        client_of(server.server_address) as two,
    ):
        await answered(one)
        await until_later(lambda: server.statistics.active == 2)
        async with draining(server):
            assert await one.receive_all() == b"bye\n"
            assert await two.receive_all() == b"bye\n"


@pytest.mark.parametrize("server_class", SERVERS)
async def test_a_client_that_gets_no_answers(server_class: type[TCPServer]) -> None:
    async with serving(server_class, Sink) as server, client_of(server.server_address) as client:
        await client.send(b"x\n")
        await until_later(lambda: server.statistics.active == 1)
        async with draining(server):
            assert await client.receive_all() == b""


async def test_greenlets_under_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    context = certificates.client_context()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(GreenletTCPServer, Echo, ssl_context=certificates.server_context())
        )
        one, two = [
            await stack.enter_async_context(tls_client(server.server_address, context))
            for _ in range(2)
        ]
        one[1].write(b"x\n")
        assert await one[0].readexactly(2) == b"X\n"
        async with draining(server):
            assert await one[0].read() == b"bye\n"
            assert await two[0].read() == b"bye\n"
    assert server.statistics.clients_vanished == 0
    assert server.statistics.handlers_failed == 0


@pytest.mark.parametrize("server_class", SERVERS)
async def test_a_tls_handshake_that_never_begins(
    server_class: type[TCPServer], tmp_path: Path
) -> None:
    context = Certificates.make(tmp_path).server_context()
    async with (
        serving(server_class, Echo, ssl_context=context) as server,
        client_of(server.server_address) as mute,
    ):
        await until_later(lambda: server.statistics.active == 1)
        async with draining(server):
            assert await mute.receive_all() == b""
    assert server.statistics.handshakes_failed == 0


@knows_silence
async def test_a_thread_under_tls_is_not_disturbed(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    context = certificates.client_context()
    async with (
        serving(ThreadingTCPServer, Echo, ssl_context=certificates.server_context()) as server,
        tls_client(server.server_address, context) as (reader, writer),
    ):
        writer.write(b"x\n")
        assert await reader.readexactly(2) == b"X\n"
        async with client_of(server.server_address) as mute, draining(server):
            assert await mute.receive_all() == b""
            # Long enough for a connection without TLS to be ended.
            await asyncio.sleep(0.7)
            writer.write(b"y\n")
            assert await reader.readexactly(2) == b"Y\n"
            writer.close()


@pytest.mark.parametrize("server_class", SERVERS)
async def test_a_connection_that_http_keeps_alive(server_class: type[TCPServer]) -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    async with serving(server_class, Hello) as server, client_of(server.server_address) as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"hello"):
                answer += await client.receive(1)
        async with draining(server):
            assert await client.receive_all() == b""


@pytest.mark.parametrize("server_class", SERVERS)
async def test_whose_proxy_has_said_nothing(server_class: type[TCPServer]) -> None:
    options: dict[str, Any] = {"proxy_protocol": "required", "proxy_trusted": ["127.0.0.1"]}
    async with (
        serving(server_class, Echo, **options) as server,
        client_of(server.server_address) as mute,
    ):
        await until_later(lambda: server.statistics.active == 1)
        async with draining(server):
            assert await mute.receive_all() == b""
    assert not server.statistics.timed_out


async def test_greenlets_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with serving(GreenletUnixStreamServer, Echo, path) as server, client_of(path) as client:
        await answered(client)
        async with draining(server):
            assert await client.receive_all() == b"bye\n"


@knows_silence
async def test_a_thread_that_works_answers_and_what_had_arrived_is_served() -> None:
    entered, may_answer = threading.Event(), threading.Event()

    class Works(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while message := self.request.recv(2):
                entered.set()
                assert may_answer.wait(20)
                self.request.sendall(message.upper())

    async with (
        serving(ThreadingTCPServer, Works) as server,
        client_of(server.server_address) as client,
    ):
        await client.send(b"a\n")
        await asyncio.to_thread(entered.wait, 20)
        async with client_of(server.server_address) as silent, draining(server):
            # It waits for a byte, too, and sees the end when nobody sends it.
            may_answer.clear()
            assert await silent.receive_all() == b""
            await client.send(b"b\n")
            may_answer.set()
            assert await client.receive(4) == b"A\nB\n"
            assert await client.receive_all() == b""


@knows_silence
async def test_a_message_in_parts_goes_on_in_a_thread() -> None:
    class Reads(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())
            self.wfile.write(self.rfile.readline())

    async with (
        serving(ThreadingTCPServer, Reads) as server,
        client_of(server.server_address) as client,
    ):
        await client.send(b"first\n")
        assert await client.receive(6) == b"first\n"
        await client.send(b"1")
        async with draining(server):
            for _ in range(3):
                # Long enough to be cut, if answers alone were to count.
                await asyncio.sleep(0.1)
                await client.send(b"2")
            await client.send(b"\n")
            assert await client.receive_all() == b"1222\n"

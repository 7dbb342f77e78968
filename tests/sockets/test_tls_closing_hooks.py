"""The end of a TLS connection where the server drains, and where hooks and handlers look at it."""

import asyncio
import os
import socket
import socketserver
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer, ThreadingTCPServer
from tests.support import until_later
from tests.tls_support import Certificates, blocking_client, is_gone, receive_slowly

LOCALHOST = ("127.0.0.1", 0)

# More than the buffers of the kernel and of a client take at once.
ANSWER = bytes(range(256)) * (8 * 1024)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


class LegacyAnswers(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(ANSWER)


# --- a server that drains ---


class Idle(StreamRequestHandler):
    """Answers lines, and ends between two of them when the server drains."""

    async def handle(self) -> None:
        self.request.end_when_draining()
        async for _ in self.rfile:
            await self.wfile.write(ANSWER)


async def test_draining_ends_an_idle_connection_as_any_other(certificates: Certificates) -> None:
    """The client has not read all of an answer when the connection ends."""
    context = certificates.server_context()
    async with TCPServer(LOCALHOST, Idle, ssl_context=context, linger_timeout=60.0) as server:
        await server.start_serving()
        reading = asyncio.create_task(
            receive_slowly(server.server_address, certificates.client_context())
        )
        await until_later(lambda: server.statistics.bytes_sent >= len(ANSWER))
        report = await server.shutdown(30.0)
        assert await reading == ANSWER
        assert report == (1, 0, 0)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_the_fin_waits_when_the_server_drains_too(
    when: str, certificates: Certificates
) -> None:
    context = certificates.server_context()
    async with TCPServer(LOCALHOST, Idle, ssl_context=context, linger_timeout=60.0) as server:
        await server.start_serving()
        async with blocking_client(server, certificates) as client:
            if when == "before":
                await until_later(lambda: server.statistics.bytes_sent >= len(ANSWER))
            ending = asyncio.create_task(server.shutdown(30.0))
            assert await asyncio.to_thread(client.receive_all) == ANSWER
            # Dropped, for the server has ended.
            await asyncio.to_thread(client.secured.sendall, bytes(100_000))
            await asyncio.sleep(0.05)  # in which the FIN would have come
            assert not client.has_fin()
            await asyncio.to_thread(client.secured.unwrap)
            assert await asyncio.to_thread(client.wait_for_fin)
            client.close()
            await ending


# --- the hooks of a legacy handler ---


async def test_close_request_finds_the_connection_as_the_handler_has_left_it(
    certificates: Certificates,
) -> None:
    told: list[Any] = []

    class Server(ThreadingTCPServer):
        def close_request(self, request: Any) -> None:
            # Nagle's algorithm would keep close_notify for 40 ms, as it does with all but a FIN.
            at_once = bool(request.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            told.append((request.version(), request.fileno() >= 0, at_once))
            super().close_request(request)

    context = certificates.server_context()
    async with Server(LOCALHOST, LegacyAnswers, ssl_context=context) as server:
        await server.start_serving()
        async with blocking_client(server, certificates) as client:
            assert await asyncio.to_thread(client.receive_all) == ANSWER
            await until_later(lambda: told)
        assert told == [("TLSv1.3", True, True)]


async def test_close_request_may_take_the_descriptor_away(certificates: Certificates) -> None:
    """OpenSSL must not touch a number that is another connection's by then."""
    ours, theirs = socket.socketpair()
    taken: list[int] = []

    class Server(ThreadingTCPServer):
        def close_request(self, request: Any) -> None:
            taken.append(request.detach())
            os.dup2(ours.fileno(), taken[0])

    context = certificates.server_context()
    theirs.sendall(b"another's")
    with ours, theirs:
        async with Server(
            LOCALHOST, LegacyAnswers, ssl_context=context, linger_timeout=60
        ) as server:
            await server.start_serving()
            async with blocking_client(server, certificates) as client:
                assert await asyncio.to_thread(client.receive_all) == ANSWER
                assert await asyncio.to_thread(client.wait_for_fin)
                await until_later(lambda: is_gone(server))
        assert ours.recv(100) == b"another's"
        os.close(taken[0])


async def test_a_handler_that_ends_tls_itself_goes_on_in_the_open(
    certificates: Certificates,
) -> None:
    class Unwraps(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.unwrap().sendall(b"in the open")

    context = certificates.server_context()
    server = ThreadingTCPServer(LOCALHOST, Unwraps, ssl_context=context, linger_timeout=60)
    async with server:
        await server.start_serving()
        async with blocking_client(server, certificates, b"") as client:
            await asyncio.to_thread(client.secured.unwrap)
            assert await asyncio.to_thread(client.plain.recv, 100) == b"in the open"
            assert await asyncio.to_thread(client.wait_for_fin)
        await until_later(lambda: is_gone(server))
    assert server.statistics.handlers_failed == 0

"""What observers are told of each request that has ended."""

import asyncio
import logging
import socket
import socketserver
import struct
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    BaseServer,
    ForkingTCPServer,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
)
from aiosocketserver.requests.statistics import RequestEnd
from tests.support import ask, client_of, until
from tests.tls_support import Certificates

LOCALHOST = ("127.0.0.1", 0)


class Does(StreamRequestHandler):
    """Does what its client asks for."""

    async def handle(self) -> None:
        match await self.rfile.readline():
            case b"fail\n":
                raise ValueError
            case b"exit\n":
                raise SystemExit
            case b"wait\n":
                await asyncio.Event().wait()
            case b"read\n":
                await self.rfile.readline()
            case line:
                await self.wfile.write(line)


class LegacyDoes(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline()
        if line == b"fail\n":
            raise ValueError
        if line == b"read\n":
            self.rfile.readline()
        self.wfile.write(line)


def observed(server: BaseServer) -> list[RequestEnd]:
    ends: list[RequestEnd] = []
    server._requests.observers.append(ends.append)
    return ends


async def test_a_request_that_finished() -> None:
    async with TCPServer(LOCALHOST, Does) as server:
        ends = observed(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            address = client.sock.getsockname()
            await client.send(b"hello\n")
            assert await client.receive(6) == b"hello\n"
        await until(lambda: ends)
    (end,) = ends
    assert end[0] == address
    assert end[3:] == ("finished", 6, 6)
    assert 0 < end.seconds < 60
    assert end.request_id > 0


@pytest.mark.parametrize(
    ("question", "outcome"), [(b"fail\n", "failed"), (b"read\n", "idle_timeout")]
)
@pytest.mark.parametrize("server_class", [TCPServer, ThreadingTCPServer])
async def test_a_request_that_did_not(
    server_class: type[TCPServer], question: bytes, outcome: str
) -> None:
    handler: Any = Does if server_class is TCPServer else LegacyDoes
    async with server_class(LOCALHOST, handler, idle_timeout=0.1) as server:
        ends = observed(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(question)
            assert await client.receive_all() == b""
        await until(lambda: ends)
    assert [end.outcome for end in ends] == [outcome]
    assert (outcome != "idle_timeout") or ends[0].seconds > 0.09


@pytest.mark.parametrize("server_class", [ThreadingTCPServer, ForkingTCPServer])
async def test_a_legacy_request_is_told_once(server_class: type[TCPServer]) -> None:
    async with server_class(LOCALHOST, LegacyDoes) as server:
        ends = observed(server)
        await server.start_serving()
        for question in (b"hello\n", b"fail\n"):
            async with client_of(server.server_address) as client:
                await client.send(question)
                await client.receive_all()
        await until(lambda: len(ends) == 2)
    assert [end.outcome for end in ends] == ["finished", "failed"]
    assert [end.bytes_sent for end in ends] == [None, None]
    assert ends[0].request_id < ends[1].request_id


async def test_a_thread_that_can_never_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ThreadingTCPServer(LOCALHOST, LegacyDoes) as server:
        ends = observed(server)
        await server.start_serving()

        def no_thread(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        monkeypatch.setattr(server._threads, "submit", no_thread)
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
        await until(lambda: ends)
    assert [end.outcome for end in ends] == ["failed"]


async def test_a_client_that_vanishes() -> None:
    async with TCPServer(LOCALHOST, Does) as server:
        ends = observed(server)
        await server.start_serving()
        sock = socket.create_connection(server.server_address)
        sock.sendall(b"read\n")
        await until(lambda: server.statistics.bytes_received)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        sock.close()
        await until(lambda: ends)
    assert [end.outcome for end in ends] == ["vanished"]


async def test_what_a_shutdown_cuts() -> None:
    async with TCPServer(LOCALHOST, Does) as server:
        ends = observed(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"wait\n")
            await until(lambda: server.statistics.bytes_received)
            await server.shutdown(0)
    assert [end.outcome for end in ends] == ["cut"]


async def test_a_handler_that_ends_the_server() -> None:
    async with TCPServer(LOCALHOST, Does) as server:
        ends = observed(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"exit\n")
            await until(lambda: ends)
            with pytest.raises(SystemExit):
                await server.shutdown()
    assert [end.outcome for end in ends] == ["failed"]


async def test_who_is_not_let_in() -> None:
    class Server(TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    async with Server(LOCALHOST, Does) as server:
        ends = observed(server)
        await server.start_serving()
        assert await ask(server.server_address) == b""
        await until(lambda: ends)
    assert [end.outcome for end in ends] == ["refused"]


async def test_a_handshake_that_fails(tmp_path: Path) -> None:
    context = Certificates.make(tmp_path).server_context()
    async with TCPServer(LOCALHOST, Does, ssl_context=context) as server:
        ends = observed(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            await client.receive_all()
        await until(lambda: ends)
    assert [end.outcome for end in ends] == ["handshake"]


async def test_a_datagram() -> None:
    class Answers(BaseRequestHandler):
        async def handle(self) -> None:
            data, sock = self.request
            await sock.sendto(data, self.client_address)

    async with UDPServer(LOCALHOST, Answers) as server:
        ends = observed(server)
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", server.server_address)
            await until(lambda: ends)
            assert ends[0].client_address == ("127.0.0.1", client.getsockname()[1])
    assert [end[3:] for end in ends] == [("finished", None, None)]


async def test_an_observer_that_fails_is_logged_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(end: RequestEnd) -> None:
        raise ValueError(end.outcome)

    async with TCPServer(LOCALHOST, Does) as server:
        server._requests.observers.append(fail)
        ends = observed(server)
        await server.start_serving()
        assert await ask(server.server_address, b"hello\n") == b"hello\n"
        await until(lambda: ends)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.getMessage() == "an observer of requests failed"

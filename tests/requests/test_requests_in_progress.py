"""`server.requests()`: who is served, since when, by what, and what that waits for."""

import asyncio
import contextlib
import socket
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    DatagramRequestHandler,
    ForkingTCPServer,
    GreenletTCPServer,
    RequestInProgress,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
)
from aiosocketserver.requests import views
from aiosocketserver.requests.entries import InProgress
from aiosocketserver.requests.registry import RequestsInProgress
from tests.shortage_support import NO_MEMORY, Shortage
from tests.support import client_of, until, until_later
from tests.tls_support import Certificates

LOCALHOST = ("127.0.0.1", 0)


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def one(server: aiosocketserver.BaseServer) -> RequestInProgress:
    (found,) = server.requests()
    return found


async def test_what_is_shown_of_a_coroutine_handler() -> None:
    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        assert server.requests() == []
        async with client_of(server.server_address) as client:
            await client.send(b"12345\n")
            assert await client.receive(6) == b"12345\n"
            await until(lambda: one(server).waits_for == "reading")
            shown = one(server)
            assert shown.client_address == client.sock.getsockname()
            assert 0 <= shown.seconds <= one(server).seconds
            assert shown.kind == "task"
            assert (shown.bytes_received, shown.bytes_sent) == (6, 6)
        await until(lambda: not server.requests())


async def test_the_number_is_that_of_log_records_and_the_oldest_comes_first() -> None:
    numbers: list[int] = []

    class Numbered(BaseRequestHandler):
        async def handle(self) -> None:
            number = aiosocketserver.request_id()
            assert number is not None
            numbers.append(number)
            await self.request.recv(1)

    async with TCPServer(LOCALHOST, Numbered) as server, contextlib.AsyncExitStack() as stack:
        await server.start_serving()
        for _ in range(20):
            await stack.enter_async_context(client_of(server.server_address))
        await until(lambda: len(numbers) == 20)
        assert [shown.request_id for shown in server.requests()] == numbers == sorted(numbers)


@pytest.mark.parametrize("way", ["sendall", "flush"])
@pytest.mark.parametrize("server_class", [TCPServer, GreenletTCPServer])
async def test_one_that_waits_for_room_to_send(server_class: type[TCPServer], way: str) -> None:
    # More than all buffers in between take (tcp_wmem, tcp_rmem: some MiB).
    size = 32 * 1024 * 1024

    class Sends(StreamRequestHandler):
        async def handle(self) -> None:
            if way == "sendall":
                await self.request.sendall(bytes(size))
            else:
                await self.wfile.write(bytes(size))
                await self.wfile.flush()

    class LegacySends(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(bytes(size))

    handler: Any = Sends if server_class is TCPServer else LegacySends
    async with server_class(LOCALHOST, handler) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.requests() and one(server).waits_for == "writing")
            sent = one(server).bytes_sent
            assert sent is not None
            assert 0 < sent < size
            assert len(await client.receive(size + 1)) == size


@pytest.mark.parametrize(
    ("server_class", "kind", "waits_for", "counted"),
    [
        (ThreadingTCPServer, "thread", None, None),
        (ForkingTCPServer, "child", None, None),
        (GreenletTCPServer, "greenlet", "reading", 2),
    ],
)
async def test_legacy_handlers(
    server_class: Any, kind: str, waits_for: str | None, counted: int | None
) -> None:
    async with server_class(LOCALHOST, LegacyEcho) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"1\n")
            assert await client.receive(2) == b"1\n"
            await until_later(lambda: one(server).waits_for == waits_for)
            shown = one(server)
            assert (shown.kind, shown.bytes_received, shown.bytes_sent) == (kind, counted, counted)
            assert shown.client_address == client.sock.getsockname()
            # A child has a copy of the client's descriptor.
            client.finish()
            assert await client.receive_all() == b""
        await until_later(lambda: not server.requests())


async def test_seconds_are_those_since_it_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await until(lambda: server.requests())
            later = time.monotonic() + 100
            monkeypatch.setattr(views, "monotonic", lambda: later)
            assert 100 <= one(server).seconds < 200


@pytest.mark.parametrize(
    ("server_class", "kind"),
    [(ThreadingTCPServer, "thread"), (GreenletTCPServer, "greenlet")],
)
async def test_a_legacy_handler_sees_its_own_request_once(server_class: Any, kind: str) -> None:
    seen: list[list[RequestInProgress]] = []

    class Looks(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self.server.requests())  # type: ignore[attr-defined]

    class Stays(server_class):  # type: ignore[misc]
        async def process_request(self, request: Any, client_address: Any) -> None:
            # The request's task goes on as long as its thread.
            super().process_request(request, client_address)
            await until_later(lambda: seen)
            seen.append(self.requests())

    async with Stays(LOCALHOST, Looks) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
    for shown in seen:
        assert [each.kind for each in shown] in ([kind], ["task"])
    assert seen[0][0].kind == kind


async def test_a_request_is_complete_as_soon_as_it_can_be_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another thread may look at any moment: this one looks just when there is one more."""
    seen: list[RequestInProgress] = []

    def add(requests: RequestsInProgress, entry: InProgress) -> None:
        set.add(requests, entry)
        seen.extend(server.requests())

    monkeypatch.setattr(RequestsInProgress, "add", add)
    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await until(lambda: seen)
    assert seen[0].seconds >= 0


@pytest.mark.parametrize("server_class", [TCPServer, ThreadingTCPServer, GreenletTCPServer])
async def test_one_that_waits_for_the_header_and_then_for_the_handshake(
    server_class: Any, tmp_path: Path
) -> None:
    handler: Any = Echo if server_class is TCPServer else LegacyEcho
    options: Any = {
        "proxy_protocol": "required",
        "proxy_trusted": ["127.0.0.0/8"],
        "ssl_context": Certificates.make(tmp_path).server_context(),
    }
    async with server_class(LOCALHOST, handler, **options) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.requests())
            await until(lambda: one(server).waits_for == "proxy")
            assert one(server).client_address == client.sock.getsockname()
            await client.send(b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n")
            await until(lambda: one(server).waits_for == "handshake")
            assert one(server).client_address == ("192.0.2.7", 1234)
            assert one(server).kind == "task"
            client.finish()


async def test_one_whose_thread_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ThreadingTCPServer(LOCALHOST, LegacyEcho) as server:
        await server.start_serving()
        shortage = Shortage(monkeypatch, "start", NO_MEMORY)
        async with client_of(server.server_address) as client:
            await until(lambda: shortage.tries)
            await until(lambda: server.requests() and one(server).waits_for == "start")
            shortage.end()
            await client.send(b"1\n")
            assert await client.receive(2) == b"1\n"
            assert one(server).kind == "thread"


async def test_datagrams() -> None:
    go_on = asyncio.Event()

    class Waits(DatagramRequestHandler):
        async def handle(self) -> None:
            await go_on.wait()

    async with UDPServer(LOCALHOST, Waits) as server:
        await server.start_serving()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.bind(LOCALHOST)
            client.sendto(b"x", server.server_address)
            await until(lambda: server.requests())
            shown = one(server)
            assert shown.client_address == client.getsockname()
            assert (shown.kind, shown.waits_for, shown.bytes_received) == ("task", None, None)
            go_on.set()
            await until(lambda: not server.requests())


async def test_in_another_thread_while_clients_come_and_go() -> None:
    done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not done.is_set():
            numbers = [shown.request_id for shown in server.requests()]
            assert numbers == sorted(set(numbers))
            seen.append(len(numbers))

    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        looking = asyncio.create_task(asyncio.to_thread(look))
        try:
            while not any(seen) or len(seen) < 50:
                async with client_of(server.server_address) as client:
                    await client.send(b"1\n")
                    assert await client.receive(2) == b"1\n"
        finally:
            done.set()
            await looking

"""What served a request is freed when the request is over, not when the collector comes by.

The collector counts objects. Those of a TLS connection are few, and hold 17 KiB more: where
each connection left a circle of references, a busy server held the memory of hundreds.
"""

import asyncio
import contextlib
import gc
import socket
import socketserver
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from tests.support import Peer, client_of, until_later
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)


class Echo(aiosocketserver.StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            if line == b"fail\n":
                raise LookupError(line)
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            if line == b"fail\n":
                raise LookupError(line)
            self.wfile.write(line)


class EchoDatagram(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        await sock.sendto(data, self.client_address)


SERVERS: dict[str, Callable[..., Any]] = {
    "coroutines": lambda **options: aiosocketserver.TCPServer(LOCALHOST, Echo, **options),
    "threads": lambda **_: aiosocketserver.ThreadingTCPServer(LOCALHOST, LegacyEcho),
    "children": lambda **_: aiosocketserver.ForkingTCPServer(LOCALHOST, LegacyEcho),
    "greenlets": lambda **options: aiosocketserver.GreenletTCPServer(
        LOCALHOST, LegacyEcho, **options
    ),
}


async def leave(client: Peer) -> None:
    client.finish()
    await client.receive_all()


async def reset(client: Peer) -> None:
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    client.sock.close()


async def reset_behind_data(client: Peer) -> None:
    await client.send(b"hel")
    await reset(client)


async def reset_before_the_answer(client: Peer) -> None:
    await client.send(b"hello\n" * 1000)
    await reset(client)


async def fail(client: Peer) -> None:
    await client.send(b"fail\n")
    await client.receive_all()


async def send_half_a_line(client: Peer) -> None:
    await client.send(b"hel")
    await client.receive_all()


async def never_read(client: Peer) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await client.send(b"x" * 60_000 + b"\n")


# How a client or its handler ends the connection.
ENDS = [leave, reset, reset_behind_data, reset_before_the_answer, fail]
# What a time-out ends: of the server, or of a legacy handler's socket.
LATE_ENDS = [send_half_a_line, never_read]


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def what_serves(server: Any) -> list[weakref.ref[Any]]:
    """The requests in progress, and what each has."""
    found: list[Any] = []
    for entry in server._requests:
        found += [entry, entry.request]
        # A greenlet serves another request after this one.
        if isinstance(task := getattr(entry, "task", None), asyncio.Task):
            found.append(task)
    # The request of a child is the child's.
    return [weakref.ref(each) for each in found if each is not None]


async def freed(references: list[weakref.ref[Any]]) -> None:
    assert references
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await until_later(lambda: not any(reference() for reference in references))
    assert [reference() for reference in references if reference() is not None] == []


@contextlib.asynccontextmanager
async def serving(server: Any) -> AsyncIterator[Any]:
    # What fails on purpose is not to be logged: a record would keep the error.
    server.handle_error = lambda *_: None
    async with server:
        await server.start_serving()
        yield server


async def freed_after(server: Any, end: Callable[[Peer], Awaitable[None]]) -> None:
    async with serving(server):
        async with client_of(server.server_address) as client:
            await client.send(b"hello\n")
            assert await client.receive(6) == b"hello\n"
            references = what_serves(server)
            await end(client)
        await freed(references)


# What fails in a child is freed with the child.
@pytest.mark.parametrize(
    ("kind", "end"),
    [(kind, end) for kind in SERVERS for end in ENDS if kind != "children" or end is leave],
    ids=lambda it: getattr(it, "__name__", it),
)
async def test_a_connection_is_freed_at_its_end(
    kind: str, end: Callable[[Peer], Awaitable[None]]
) -> None:
    await freed_after(SERVERS[kind](), end)


@pytest.mark.parametrize("end", LATE_ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("kind", ["coroutines", "greenlets"])
async def test_a_connection_is_freed_when_a_time_out_has_ended_it(
    kind: str, end: Callable[[Peer], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LegacyEcho, "timeout", 0.1)
    await freed_after(SERVERS[kind](read_timeout=0.1, write_timeout=0.1), end)


async def test_a_refused_connection_is_freed() -> None:
    references: list[weakref.ref[Any]] = []

    class Refusing(aiosocketserver.TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            references.extend(what_serves(self))
            return False

    async with serving(Refusing(LOCALHOST, Echo, linger_timeout=60.0)) as server:
        async with client_of(server.server_address) as client:
            await client.receive_all()
        await freed(references)


@pytest.mark.parametrize("kind", ["coroutines", "greenlets"])
async def test_a_connection_is_freed_whose_handler_never_waits(kind: str) -> None:
    references: list[weakref.ref[Any]] = []

    class Quick(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            references.extend(what_serves(self.server))

    class LegacyQuick(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            references.extend(what_serves(self.server))

    if kind == "coroutines":
        server: Any = aiosocketserver.TCPServer(LOCALHOST, Quick)
    else:
        server = aiosocketserver.GreenletTCPServer(LOCALHOST, LegacyQuick)
    async with serving(server):
        async with client_of(server.server_address) as client:
            await client.receive_all()
        await freed(references)


async def test_a_connection_that_a_shutdown_cut_is_freed() -> None:
    async with (
        serving(SERVERS["coroutines"]()) as server,
        client_of(server.server_address) as client,
    ):
        await client.send(b"hello\n")
        assert await client.receive(6) == b"hello\n"
        # Half a line is asked for.
        await client.send(b"hel")
        references = what_serves(server)
        await server.shutdown(0)
        await freed(references)


async def test_a_connection_is_freed_whose_flush_was_cancelled() -> None:
    class Impatient(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(await self.rfile.readline())
            writing = asyncio.create_task(self.wfile.write(b"x" * 10_000_000))
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])
            await self.rfile.readline()

    # Until then a timer has the context in which it was set, also one that was cancelled.
    server = aiosocketserver.TCPServer(LOCALHOST, Impatient, write_timeout=0.5)
    await freed_after(server, reset)


@pytest.mark.parametrize("polite", [True, False], ids=["close_notify", "reset"])
async def test_an_encrypted_connection_is_freed(tmp_path: Path, polite: bool) -> None:
    certificates = Certificates.make(tmp_path)
    server = aiosocketserver.TCPServer(
        LOCALHOST,
        Echo,
        ssl_context=certificates.server_context(),
        # Until then a timer has the context in which it was set, also one that was cancelled.
        handshake_timeout=0.5,
    )
    async with serving(server):
        async with tls_client(server.server_address, certificates.client_context()) as (
            reader,
            writer,
        ):
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
            references = what_serves(server)
            if not polite:
                writer.transport.abort()
        await freed(references)


@pytest.mark.parametrize("words", [b"", b"not TLS at all"], ids=["silent", "rubbish"])
async def test_a_failed_handshake_is_freed(tmp_path: Path, words: bytes) -> None:
    server = aiosocketserver.TCPServer(
        LOCALHOST,
        Echo,
        ssl_context=Certificates.make(tmp_path).server_context(),
        handshake_timeout=0.1,
    )
    async with serving(server):
        async with client_of(server.server_address) as client:
            await until_later(lambda: server.statistics.active)
            references = what_serves(server)
            await client.send(words)
            await client.receive_all()
        await freed(references)


async def test_a_datagram_is_freed() -> None:
    references: list[weakref.ref[Any]] = []

    class Told(EchoDatagram):
        server: aiosocketserver.UDPServer

        async def handle(self) -> None:
            references.extend(weakref.ref(entry) for entry in self.server._requests)
            references.append(weakref.ref(self))
            await super().handle()

    async with serving(aiosocketserver.UDPServer(LOCALHOST, Told)) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(server.server_address)
            sock.send(b"hello")
            loop = asyncio.get_running_loop()
            # The worker keeps the context of its last datagram until the next one.
            assert await loop.sock_recv(sock, 100) == b"hello"
            await until_later(lambda: not server.statistics.active)
            first = list(references)
            sock.send(b"hello")
            assert await loop.sock_recv(sock, 100) == b"hello"
        await freed(first)

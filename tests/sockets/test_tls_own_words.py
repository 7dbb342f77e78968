"""What OpenSSL says itself, asked by a handler or not, leaves without a byte of the handler's."""

import asyncio
import contextlib
import select
import socket
import socketserver
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aiosocketserver import (
    ForkingTCPServer,
    GreenletTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
    ThreadingTCPServer,
)
from tests.support import until, until_later
from tests.tls_support import Certificates, blocking_client

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


def asking_context(certificates: Certificates) -> ssl.SSLContext:
    """For a server that asks for the client's certificate when it wants to, and says no more."""
    context = certificates.server_context()
    context.load_verify_locations(certificates.ca_file)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.post_handshake_auth = True
    # Session tickets, which would come first.
    context.num_tickets = 0
    return context


def answering_context(certificates: Certificates) -> ssl.SSLContext:
    context = certificates.client_context()
    certificates.authority.issue_cert("me@example.org").configure_cert(context)
    context.post_handshake_auth = True
    return context


@contextlib.asynccontextmanager
async def asking(
    certificates: Certificates, handler: Any, make: Any = TCPServer
) -> AsyncIterator[Any]:
    async with make(LOCALHOST, handler, ssl_context=asking_context(certificates)) as server:
        await server.start_serving()
        yield server
    assert server.statistics.handlers_failed == 0
    assert server.statistics.clients_vanished == 0


def answer_and_go_on(address: Any, context: ssl.SSLContext) -> bytes:
    """Say hello, wait to be asked for a certificate, go on; what the server answers."""
    with (
        socket.create_connection(address, timeout=20) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"hello\n")
        assert select.select([secured], [], [], 20)[0], "the server has not asked"
        # OpenSSL answers where the client reads.
        secured.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            raise AssertionError(f"the server said {secured.recv(100)!r}")
        secured.settimeout(20)
        secured.sendall(b"next\n")
        return secured.recv(1000)


def email_of(certificate: Any) -> bytes:
    return dict(certificate["subjectAltName"])["email"].encode() if certificate else b"nobody"


def tls_of(handler: Any) -> ssl.SSLObject:
    tls = handler.request.ssl_object
    assert tls is not None
    return tls  # type: ignore[no-any-return]


async def readline(handler: Any) -> bytes:
    return await handler.rfile.readline()  # type: ignore[no-any-return]


async def iterate(handler: Any) -> bytes:
    async for line in handler.rfile:
        return line  # type: ignore[no-any-return]
    return b""


async def recv(handler: Any) -> bytes:
    return await handler.request.recv(100)  # type: ignore[no-any-return]


async def recv_into(handler: Any) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: await handler.request.recv_into(buffer)])


async def read1(handler: Any) -> bytes:
    return await handler.rfile.read1(100)  # type: ignore[no-any-return]


async def readexactly(handler: Any) -> bytes:
    return await handler.rfile.readexactly(5)  # type: ignore[no-any-return]


WAYS = [readline, iterate, recv, recv_into, read1, readexactly]


@pytest.mark.parametrize("wait", WAYS)
async def test_a_certificate_that_is_asked_for_before_a_wait(
    wait: Callable[[Any], Awaitable[bytes]], certificates: Certificates
) -> None:
    class Asks(StreamRequestHandler):
        async def handle(self) -> None:
            assert await self.rfile.readline() == b"hello\n"
            assert tls_of(self).getpeercert() is None
            tls_of(self).verify_client_post_handshake()
            assert await wait(self) == b"next\n"
            await self.wfile.write(email_of(tls_of(self).getpeercert()))

    async with asking(certificates, Asks) as server:
        client = answering_context(certificates)
        said = await asyncio.to_thread(answer_and_go_on, server.server_address, client)
        assert said == b"me@example.org"


async def test_a_certificate_that_another_task_asks_for_during_a_wait(
    certificates: Certificates,
) -> None:
    class Asks(StreamRequestHandler):
        async def handle(self) -> None:
            assert await self.rfile.readline() == b"hello\n"
            tls = tls_of(self)
            reading = asyncio.create_task(self.rfile.readline())
            await asyncio.sleep(0)
            tls.verify_client_post_handshake()
            assert await reading == b"next\n"
            await self.wfile.write(email_of(tls.getpeercert()))

    async with asking(certificates, Asks) as server:
        client = answering_context(certificates)
        said = await asyncio.to_thread(answer_and_go_on, server.server_address, client)
        assert said == b"me@example.org"


async def test_a_certificate_that_is_asked_for_after_start_tls(certificates: Certificates) -> None:
    context = asking_context(certificates)

    class Asks(StreamRequestHandler):
        async def handle(self) -> None:
            await self.request.start_tls(context)
            assert await self.rfile.readline() == b"hello\n"
            tls_of(self).verify_client_post_handshake()
            assert await self.rfile.readline() == b"next\n"
            await self.wfile.write(email_of(tls_of(self).getpeercert()))

    async with TCPServer(LOCALHOST, Asks) as server:
        await server.start_serving()
        client = answering_context(certificates)
        said = await asyncio.to_thread(answer_and_go_on, server.server_address, client)
        assert said == b"me@example.org"


@pytest.mark.parametrize("make", [GreenletTCPServer, ThreadingTCPServer, ForkingTCPServer])
async def test_a_legacy_handler_asks_for_a_certificate(
    make: Any, certificates: Certificates
) -> None:
    class Asks(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            assert self.rfile.readline() == b"hello\n"
            self.request.verify_client_post_handshake()
            assert self.rfile.readline() == b"next\n"
            self.wfile.write(email_of(self.request.getpeercert()))

    async with asking(certificates, Asks, make) as server:
        client = answering_context(certificates)
        said = await asyncio.to_thread(answer_and_go_on, server.server_address, client)
        assert said == b"me@example.org"


async def test_a_client_that_cannot_be_asked_is_an_error_of_the_handler(
    certificates: Certificates,
) -> None:
    errors: list[ssl.SSLError] = []

    class Asks(StreamRequestHandler):
        async def handle(self) -> None:
            await self.rfile.readline()
            try:
                tls_of(self).verify_client_post_handshake()
            except ssl.SSLError as error:
                errors.append(error)

    async with (
        asking(certificates, Asks) as server,
        blocking_client(server, certificates, b"hello\n") as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == b""
    assert errors[0].reason == "EXTENSION_NOT_RECEIVED"


async def test_a_certificate_that_the_client_does_not_have_ends_the_connection(
    certificates: Certificates,
) -> None:
    errors: list[OSError] = []

    class Demands(StreamRequestHandler):
        async def handle(self) -> None:
            await self.rfile.readline()
            tls = tls_of(self)
            tls.context.verify_mode = ssl.CERT_REQUIRED
            tls.verify_client_post_handshake()
            try:
                await self.rfile.readline()
            except OSError as error:
                errors.append(error)
                raise

    context = asking_context(certificates)
    context.verify_mode = ssl.CERT_REQUIRED
    client_context = certificates.client_context()
    client_context.post_handshake_auth = True
    async with TCPServer(LOCALHOST, Demands, ssl_context=context) as server:
        await server.start_serving()
        async with blocking_client(
            server, certificates, b"hello\n", context=client_context
        ) as client:
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                await asyncio.to_thread(client.receive_all)
        await until(lambda: not server.requests())
    assert isinstance(errors[0], ssl.SSLError)
    assert server.statistics.clients_vanished == 1


# --- the other things that OpenSSL says ---


async def test_an_end_that_the_handler_says_by_hand_leaves_at_once(
    certificates: Certificates,
) -> None:
    class Unwraps(StreamRequestHandler):
        async def handle(self) -> None:
            await self.rfile.readline()
            with contextlib.suppress(ssl.SSLWantReadError):
                tls_of(self).unwrap()
            # The client says the next thing when it has the end.
            assert await self.rfile.readline() == b"next\n"

    async with (
        asking(certificates, Unwraps) as server,
        blocking_client(server, certificates, b"hello\n") as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == b""
        await asyncio.to_thread(client.secured.sendall, b"next\n")
        await until_later(lambda: not server.requests())


async def test_a_record_that_the_handler_writes_by_hand_leaves_at_once(
    certificates: Certificates,
) -> None:
    class Writes(StreamRequestHandler):
        async def handle(self) -> None:
            assert tls_of(self).write(b"hello") == 5
            assert await self.rfile.readline() == b"next\n"

    async with (
        asking(certificates, Writes) as server,
        blocking_client(server, certificates, b"") as client,
    ):
        assert await asyncio.to_thread(client.secured.recv, 100) == b"hello"
        await asyncio.to_thread(client.secured.sendall, b"next\n")
        assert await asyncio.to_thread(client.receive_all) == b""


@pytest.mark.parametrize("says", ["end", "question", "cancelled"])
async def test_what_the_kernel_does_not_take_leaves_when_it_has_room(
    says: str, certificates: Certificates
) -> None:
    """Nobody writes any more: the handler waits for the client, who waits for the handler."""
    waits = asyncio.Event()

    class Fills(StreamRequestHandler):
        async def handle(self) -> None:
            sock: StreamSocket = self.request
            await self.rfile.readline()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            # In a wait for room, what is left would have been seen to.
            sock.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    await sock.send(bytes(30_000))
            sock.settimeout(None)
            if says == "end":
                sock.shutdown(socket.SHUT_WR)
            elif says == "question":
                tls_of(self).verify_client_post_handshake()
            waits.set()
            assert await self.rfile.readline() == b"next\n"

    context = asking_context(certificates)
    async with TCPServer(LOCALHOST, Fills, ssl_context=context) as server:
        await server.start_serving()
        async with blocking_client(
            server, certificates, b"hello\n", context=answering_context(certificates)
        ) as client:
            await waits.wait()
            await asyncio.sleep(0.01)  # for it to wait
            sent = server.statistics.bytes_sent
            received = await asyncio.to_thread(client.receive_exactly, sent)
            assert len(received) == sent
            if says == "end":
                assert await asyncio.to_thread(client.receive_all) == b""
            elif says == "question":
                await asyncio.to_thread(client.wait_for_input)
                assert client.receive_now() == b""
            await asyncio.to_thread(client.secured.sendall, b"next\n")
            assert await asyncio.to_thread(client.receive_all) == b""
    assert server.statistics.handlers_failed == 0

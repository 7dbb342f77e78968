"""Sockets that a program has wrapped in TLS itself: said at the start or at the first request."""

import asyncio
import logging
import socket
import socketserver
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from aiosocketserver import (
    ForkingTCPServer,
    GreenletTCPServer,
    StartError,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    serving,
)
from tests.support import ask, client_of, until_later
from tests.tls_support import BlockingClient, Certificates, blocking_client

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


ON_THE_LOOP: list[Any] = [
    (TCPServer, Echo),
    (GreenletTCPServer, LegacyEcho),
    (ThreadingTCPServer, Echo),
]
ELSEWHERE: list[Any] = [(ThreadingTCPServer, LegacyEcho), (ForkingTCPServer, LegacyEcho)]


# --- at the start ---


@pytest.mark.parametrize(("make", "handler"), ON_THE_LOOP + ELSEWHERE)
@pytest.mark.parametrize("start", ["start_serving", "serve_forever", "handle_request"])
async def test_a_listening_ssl_socket_is_refused_at_the_start(
    make: Any, handler: Any, start: str, certificates: Certificates
) -> None:
    async with make(LOCALHOST, handler) as server:
        context = certificates.server_context()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with pytest.raises(TypeError, match=r"is an ssl\.SSLSocket.* ssl_context=context"):
            await getattr(server, start)()


@pytest.mark.parametrize("takes_sock", [False, True])
def test_one_of_a_class_that_is_deployed_is_refused(
    takes_sock: bool, certificates: Certificates
) -> None:
    """It was replaced by the service's own socket, on which nothing was encrypted."""

    class Wraps(TCPServer):
        def __init__(self, address: Any, **options: Any) -> None:
            super().__init__(address, Echo, **options)
            context = certificates.server_context()
            self.socket = context.wrap_socket(self.socket, server_side=True)

    class TakesSock(Wraps):
        def __init__(self, address: Any, sock: socket.socket, **options: Any) -> None:
            super().__init__(None, sock=sock, **options)

    target = TakesSock if takes_sock else Wraps
    with (
        pytest.raises(StartError, match=f"{target.__name__} has wrapped .* ssl_context=context"),
        serving(target, "tcp://127.0.0.1:0"),
    ):
        pass


async def test_one_that_a_hook_has_made_is_refused_as_well(certificates: Certificates) -> None:
    class Server(TCPServer):
        def server_activate(self) -> None:
            super().server_activate()
            context = certificates.server_context()
            self.socket = context.wrap_socket(self.socket, server_side=True)

    async with Server(LOCALHOST, Echo) as server:
        with pytest.raises(TypeError, match="ssl_context"):
            await server.start_serving()


@pytest.mark.parametrize(("make", "handler"), ELSEWHERE)
async def test_one_that_leaves_the_handshake_to_threads_and_children_holds_nobody_up(
    make: Any, handler: Any, certificates: Certificates
) -> None:
    async with make(LOCALHOST, handler) as server:
        server.socket = certificates.server_context().wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        await server.start_serving()
        forks = make is ForkingTCPServer
        async with client_of(server.server_address) as silent:
            await until_later(lambda: not forks or server.active_children)
            async with blocking_client(
                server, certificates, b"hello\n", child_encrypts=forks
            ) as client:
                assert await asyncio.to_thread(client.receive_exactly, 6) == b"hello\n"
            silent.finish()  # the later child has inherited this end, and keeps it open


# --- at the first request ---


class Wrapping(TCPServer):
    """Encrypts connections where they are accepted, as programs for socketserver do."""

    context: ssl.SSLContext
    handshake = True

    def get_request(self) -> tuple[Any, Any]:
        connection, client_address = self.socket.accept()
        wrapped = self.context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=self.handshake
        )
        return wrapped, client_address

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.told = getattr(self, "told", 0) + 1
        super().handle_error(request, client_address)


def connect(server: Any, certificates: Certificates) -> bytes:
    """What a client gets that shakes hands and waits for the end."""
    try:
        client = BlockingClient(server.server_address, certificates.client_context(), b"")
    except OSError:
        return b""
    try:
        return client.secured.recv(100)
    except OSError:
        return b""
    finally:
        client.close()


@pytest.mark.parametrize("handshake", [True, False])
@pytest.mark.parametrize(("make", "handler"), ON_THE_LOOP)
async def test_an_accepted_ssl_socket_is_an_error_that_names_ssl_context(
    make: Any,
    handler: Any,
    handshake: bool,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bases = (Wrapping,) if make is TCPServer else (Wrapping, make)
    server_class: Any = type(
        "Server", bases, {"context": certificates.server_context(), "handshake": handshake}
    )
    async with server_class(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await asyncio.to_thread(connect, server, certificates) == b""
        await until_later(lambda: not server.requests())
        assert server.told == 1
        assert server.statistics.handlers_failed == 1
    (record,) = [record for record in caplog.records if record.exc_info]
    message = str(record.exc_info and record.exc_info[1])
    assert "get_request() returned a SSLSocket" in message
    assert "ssl_context=context" in message
    assert "start_tls(context)" in message


@pytest.mark.parametrize(("make", "handler"), ON_THE_LOOP)
async def test_a_listening_socket_that_is_replaced_while_it_serves_blocks_nobody(
    make: Any, handler: Any, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(LOCALHOST, handler) as server:
        await server.start_serving()
        async with client_of(server.server_address) as served:
            await served.send(b"one\n")
            assert await served.receive(4) == b"one\n"
            context = certificates.server_context()
            server.socket = context.wrap_socket(server.socket, server_side=True)
            # It says nothing, so that a handshake would wait for it.
            assert await ask(server.server_address) == b""
            await served.send(b"two\n")
            assert await served.receive(4) == b"two\n"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "ssl_context=context" in str(record.exc_info and record.exc_info[1])


@pytest.mark.parametrize(("make", "handler"), ELSEWHERE)
async def test_a_listening_socket_that_is_replaced_serves_threads_and_children(
    make: Any, handler: Any, certificates: Certificates
) -> None:
    async with make(LOCALHOST, handler) as server:
        await server.start_serving()
        context = certificates.server_context()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        forks = make is ForkingTCPServer
        async with client_of(server.server_address) as silent:
            await until_later(lambda: not forks or server.active_children)
            async with blocking_client(
                server, certificates, b"hello\n", child_encrypts=forks
            ) as client:
                assert await asyncio.to_thread(client.receive_exactly, 6) == b"hello\n"
            silent.finish()  # the later child has inherited this end, and keeps it open


@pytest.mark.parametrize("handshake", [True, False])
@pytest.mark.parametrize(("make", "handler"), ELSEWHERE)
async def test_threads_and_children_may_have_it_and_a_handshake_on_the_loop_is_told_once(
    make: Any,
    handler: Any,
    handshake: bool,
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    attributes = {"context": certificates.server_context(), "handshake": handshake}
    server_class: Any = type("Server", (Wrapping, make), attributes)
    async with server_class(LOCALHOST, handler) as server:
        await server.start_serving()
        child = make is ForkingTCPServer and not handshake
        for _ in range(2):
            async with blocking_client(
                server, certificates, b"hello\n", child_encrypts=child
            ) as client:
                assert await asyncio.to_thread(client.receive_exactly, 6) == b"hello\n"
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert ["ssl_context=context" in message for message in told if "handshake" in message] == (
        [True] if handshake else []
    )


@pytest.mark.parametrize(("make", "handler"), ON_THE_LOOP + ELSEWHERE[:1])
async def test_encrypted_twice_is_an_error(
    make: Any, handler: Any, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    context = certificates.server_context()
    bases = (Wrapping,) if make is TCPServer else (Wrapping, make)
    server_class: Any = type("Server", bases, {"context": context, "handshake": False})
    async with server_class(LOCALHOST, handler, ssl_context=context) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        await until_later(lambda: not server.requests())
        assert server.told == 1
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "ssl_context" in str(record.exc_info and record.exc_info[1])


class NoSocket:
    """As other libraries have them: it speaks like a socket and is none."""

    def __init__(self, sock: socket.socket) -> None:
        self.close: Callable[[], None] = sock.close
        self.fileno = sock.fileno


async def test_what_is_no_socket_is_an_error_too(caplog: pytest.LogCaptureFixture) -> None:
    class Server(TCPServer):
        def get_request(self) -> Any:
            connection, client_address = super().get_request()
            return NoSocket(connection), client_address

    async with Server(LOCALHOST, Echo) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        await until_later(lambda: not server.requests())
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "returned a NoSocket" in str(record.exc_info and record.exc_info[1])

"""TLS as legacy programs have it: the listening socket replaced, get_request, finish_request."""

import contextlib
import http.client
import http.server
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, IMPLEMENTATIONS, implementation, serving

ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *args: object) -> None:
        pass


def get(address: Any, context: ssl.SSLContext) -> bytes:
    host, port = address
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=BOUND)
    connection.request("GET", "/")
    body: bytes = connection.getresponse().read()
    connection.close()
    return body


@pytest.mark.parametrize("threads", [True, False])
def test_listening_socket_that_is_replaced(
    module: Any, threads: bool, context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    bases = (module.ThreadingMixIn, http.server.HTTPServer) if threads else (module.TCPServer,)
    server_class = type("Server", bases, {"request_queue_size": 64})
    server = server_class(ADDRESS, Hello)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server), ThreadPoolExecutor(10) as clients:
        answers = clients.map(lambda _: get(server.server_address, client_context), range(50))
        assert list(answers) == [b"hello"] * 50


def test_listening_socket_that_is_replaced_while_it_serves(
    module: Any, context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    with serving(module.ThreadingTCPServer(ADDRESS, Hello)) as server:
        host, port = server.server_address
        plain = http.client.HTTPConnection(host, port, timeout=BOUND)
        plain.request("GET", "/")
        assert plain.getresponse().read() == b"hello"
        plain.close()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        assert get(server.server_address, client_context) == b"hello"


def test_get_request_that_wraps_with_a_time_out(
    module: Any, context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def get_request(self) -> tuple[Any, Any]:
            request, address = super().get_request()
            request.settimeout(0.2)
            try:
                return context.wrap_socket(request, server_side=True), address
            except OSError:
                request.close()
                raise

    with (
        serving(Server(ADDRESS, Hello)) as server,
        socket.create_connection(server.server_address, BOUND) as silent,
        socket.create_connection(server.server_address, BOUND) as rubbish,
    ):
        rubbish.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert get(server.server_address, client_context) == b"hello"
        # The one that never shook hands, and the one that did not speak TLS.
        assert silent.recv(1) == b""
        with contextlib.suppress(ConnectionResetError):
            # An alert perhaps, and then the end.
            while rubbish.recv(1024):
                pass


def test_handshake_in_the_request_s_thread_holds_up_nobody(
    module: Any, context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def get_request(self) -> tuple[Any, Any]:
            request, address = super().get_request()
            return (
                context.wrap_socket(request, server_side=True, do_handshake_on_connect=False),
                address,
            )

        def finish_request(self, request: Any, client_address: Any) -> None:
            request.do_handshake()
            super().finish_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with (
        serving(Server(ADDRESS, Hello)) as server,
        socket.create_connection(server.server_address, BOUND),
    ):
        assert get(server.server_address, client_context) == b"hello"


def test_a_coroutine_handler_encrypts_its_connection_itself(
    context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """What the error says to a program whose get_request() returns a TLS socket."""

    class Secret(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.request.start_tls(context)
            await self.wfile.write(await self.rfile.readline())

    with (
        serving(compat.TCPServer(ADDRESS, Secret)) as server,
        socket.create_connection(server.server_address, BOUND) as sock,
        client_context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"hello\n")
        assert secured.recv(100) == b"hello\n"

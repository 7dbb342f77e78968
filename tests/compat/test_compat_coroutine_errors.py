"""What compat says of handlers that could not work, and where: never a silent close."""

import functools
import socket
import socketserver
import ssl
import sys
import threading
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, served, serving

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(autouse=True, params=LOOP_NAMES)
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", request.param)


class Coroutine(aiosocketserver.StreamRequestHandler):
    async def handle(self) -> None:
        await self.wfile.write(b"answer")


class CoroutineOnStandardBase(socketserver.StreamRequestHandler):
    async def handle(self) -> None:  # type: ignore[override]
        self.wfile.write(b"never")


class GeneratorOnStandardBase(socketserver.BaseRequestHandler):
    async def handle(self) -> Any:
        yield


class PlainOnCoroutineBase(aiosocketserver.StreamRequestHandler):
    def handle(self) -> None:  # type: ignore[override]
        pass


class PlainSetup(Coroutine):
    def setup(self) -> None:  # type: ignore[override]
        pass


class WithoutHandle(aiosocketserver.BaseRequestHandler):
    pass


async def coroutine_function(request: Any, client_address: Any, server: Any) -> None:
    pass


WRONG = [
    (CoroutineOnStandardBase, "derive from aiosocketserver.StreamRequestHandler"),
    (functools.partial(CoroutineOnStandardBase), "aiosocketserver.StreamRequestHandler"),
    (GeneratorOnStandardBase, "asynchronous generator"),
    (PlainOnCoroutineBase, "make it `async def handle"),
    (PlainSetup, "make it `async def setup"),
    (WithoutHandle, "define `async def handle"),
    (coroutine_function, "is the coroutine function coroutine_function: put it into a class"),
]


@pytest.mark.parametrize("base", [compat.TCPServer, compat.ThreadingTCPServer])
@pytest.mark.parametrize(("handler", "advice"), WRONG)
@pytest.mark.parametrize("way", ["serve_forever", "handle_request", "serve_async"])
def test_a_handler_that_could_not_work_is_told_before_serving(
    base: Any, handler: Any, advice: str, way: str
) -> None:
    with (
        base(LOCALHOST, handler) as server,
        pytest.raises(TypeError, match=advice),
        served(server, way),
    ):
        pass


@pytest.fixture
def told() -> list[str]:
    return []


def telling(base: Any, told: list[str]) -> Any:
    """A class of server that keeps what its handle_error() is called for."""

    class Server(base):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            told.append(str(sys.exc_info()[1]))

    return Server


def test_one_that_comes_between_two_requests_is_told_to_handle_error(told: list[str]) -> None:
    with serving(telling(compat.TCPServer, told)(LOCALHOST, Coroutine)) as server:
        assert ask(server.server_address) == b"answer"
        server.RequestHandlerClass = PlainOnCoroutineBase
        assert ask(server.server_address) == b""
        server.RequestHandlerClass = Coroutine
        assert ask(server.server_address) == b"answer"
    assert len(told) == 1
    assert "make it `async def handle" in told[0]


def factory(request: Any, client_address: Any, server: Any) -> Any:
    return Coroutine(request, client_address, server)


@pytest.mark.parametrize("base", [compat.TCPServer, compat.ThreadingTCPServer])
def test_a_factory_cannot_make_coroutine_handlers(base: Any, told: list[str]) -> None:
    with serving(telling(base, told)(LOCALHOST, factory)) as server:
        assert ask(server.server_address) == b""
        server.RequestHandlerClass = Coroutine
        assert ask(server.server_address) == b"answer"
    assert len(told) == 1
    assert "Coroutine is a coroutine handler" in told[0]
    assert "give the class itself, or a functools.partial of it" in told[0]


class OwnThreads(compat.TCPServer):
    """As programs do it that were written before ThreadingMixIn, or want a pool."""

    def process_request(self, request: Any, client_address: Any) -> None:
        def serve() -> None:
            try:
                self.finish_request(request, client_address)
            except Exception:  # noqa: BLE001 - handle_error() tells it
                self.handle_error(request, client_address)
            finally:
                self.shutdown_request(request)

        threading.Thread(target=serve).start()


class StandardMixIn(socketserver.ThreadingMixIn, compat.TCPServer):
    pass


@pytest.mark.parametrize("base", [OwnThreads, StandardMixIn])
def test_a_process_request_with_threads_of_its_own_cannot_run_coroutine_handlers(
    base: Any, told: list[str]
) -> None:
    with serving(telling(base, told)(LOCALHOST, Coroutine)) as server:
        assert ask(server.server_address) == b""
    assert len(told) == 1
    assert "compat's own ThreadingMixIn" in told[0]


def test_the_standard_mix_in_serves_legacy_handlers_beside(told: list[str]) -> None:
    class Legacy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"legacy")

    with serving(telling(StandardMixIn, told)(LOCALHOST, Legacy)) as server:
        assert ask(server.server_address) == b"legacy"
    assert not told


def test_a_tls_socket_of_get_request_is_refused_with_a_clear_error(told: list[str]) -> None:
    class Server(compat.TCPServer):
        def get_request(self) -> Any:
            sock, address = super().get_request()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            wrapped = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            return wrapped, address

    with serving(telling(Server, told)(LOCALHOST, Coroutine)) as server:
        assert ask(server.server_address) == b""
    assert len(told) == 1
    assert "needs a plain socket.socket, and get_request() returned a SSLSocket" in told[0]
    assert "await self.request.start_tls(context)" in told[0]


def test_an_exception_of_a_hook_reaches_handle_error_once_and_ends_the_connection(
    told: list[str],
) -> None:
    class Server(compat.TCPServer):
        def finish_request(self, request: Any, client_address: Any) -> None:
            raise ValueError("finish_request")

    with serving(telling(Server, told)(LOCALHOST, Coroutine)) as server:
        assert ask(server.server_address) == b""
    assert told == ["finish_request"]


def test_what_handle_error_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            raise ValueError("handler")

    class Server(compat.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            raise ValueError("handle_error itself")

    with serving(Server(LOCALHOST, Failing)) as server:
        assert ask(server.server_address) == b""
        server.RequestHandlerClass = Coroutine
        assert ask(server.server_address) == b"answer"
    assert "handle_error() failed" in caplog.text
    assert "handle_error itself" in caplog.text


def test_a_stream_handler_on_a_datagram_server_is_told(told: list[str]) -> None:
    called = threading.Event()

    class Server(telling(compat.UDPServer, told)):  # type: ignore[misc]
        def close_request(self, request: Any) -> None:
            called.set()

    with (
        serving(Server(LOCALHOST, Coroutine)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"datagram", server.server_address)
        assert called.wait(BOUND)
    assert len(told) == 1
    assert "needs a stream server" in told[0]


@pytest.mark.parametrize("serve", ["serve_forever", "handle_request"])
def test_an_option_that_makes_no_sense_is_told_before_anybody_connects(serve: str) -> None:
    class Server(compat.TCPServer):
        shutdown_timeout = -1.0

    with (
        Server(("127.0.0.1", 0), Coroutine) as server,
        pytest.raises(ValueError, match=r"Server\.shutdown_timeout must be a number of seconds"),
    ):
        getattr(server, serve)()

"""Coroutine handlers on compat's servers: every server class, every way to serve, every hook."""

import asyncio
import contextlib
import contextvars
import functools
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, receive_all, serving

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(autouse=True, params=LOOP_NAMES)
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", request.param)


def where() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "no loop"
    return "loop"


# Every server class, in every way of serving


class StreamHandler(aiosocketserver.StreamRequestHandler):
    server: Any

    async def handle(self) -> None:
        line = await self.rfile.readline()
        await self.wfile.write(b"%s %s" % (self.server.tag, line))


class PlainStreamHandler(aiosocketserver.BaseRequestHandler):
    server: Any

    async def handle(self) -> None:
        line = await self.request.recv(100)
        await self.request.sendall(b"%s %s" % (self.server.tag, line))


class DatagramHandler(aiosocketserver.DatagramRequestHandler):
    server: Any

    async def handle(self) -> None:
        self.wfile.write(b"%s %s" % (self.server.tag, self.rfile.read()))


class PlainDatagramHandler(aiosocketserver.BaseRequestHandler):
    server: Any

    async def handle(self) -> None:
        data, sock = self.request
        await asyncio.sleep(0)
        await sock.sendto(b"%s %s" % (self.server.tag, data), self.client_address)


def exchange(server: Any, folder: Path) -> None:
    """One question, and the server's right answer to it."""
    if server.socket_type == socket.SOCK_STREAM:
        with connect(server.server_address) as client:
            client.sendall(b"line\n")
            assert receive_all(client) == b"tag line\n"
        return
    with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
        client.settimeout(BOUND)
        path = folder / "client"
        client.bind(str(path) if server.address_family == socket.AF_UNIX else LOCALHOST)
        client.sendto(b"line\n", server.server_address)
        assert client.recv(100) == b"tag line\n"
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def in_thread(function: Callable[[], object]) -> Iterator[None]:
    failures = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        thread.join(BOUND)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def inside_a_loop(function: Callable[[], object]) -> Callable[[], None]:
    """To call it in a coroutine, and see that the loop around it is still the running one."""

    async def call() -> None:
        function()
        await asyncio.sleep(0)

    return lambda: asyncio.run(call())


@contextlib.contextmanager
def shut_down(server: Any) -> Iterator[None]:
    try:
        yield
    finally:
        server.shutdown()


@contextlib.contextmanager
def served(server: Any, way: str) -> Iterator[None]:
    match way:
        case "handle_request":
            with in_thread(server.handle_request):
                yield
        case "handle_request inside a loop":
            with in_thread(inside_a_loop(server.handle_request)):
                yield
        case "serve_forever":
            with in_thread(server.serve_forever), shut_down(server):
                yield
        case "serve_forever inside a loop":
            with in_thread(inside_a_loop(server.serve_forever)), shut_down(server):
                yield
        case "serve_async":
            with in_thread(lambda: asyncio.run(server.serve_async())), shut_down(server):
                yield


MIX_INS = {"plain": (), "Threading": (compat.ThreadingMixIn,), "Forking": (compat.ForkingMixIn,)}
SERVERS = {
    f"{name} {base.__name__}": type(name + base.__name__, (*mix_in, base), {"tag": b"tag"})
    for name, mix_in in MIX_INS.items()
    for base in (
        compat.TCPServer,
        compat.UDPServer,
        compat.UnixStreamServer,
        compat.UnixDatagramServer,
    )
}
WAYS = [
    "handle_request",
    "handle_request inside a loop",
    "serve_forever",
    "serve_forever inside a loop",
    "serve_async",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SERVERS)
def test_a_coroutine_handler_serves_on_every_server_class(
    tmp_path: Path, name: str, way: str
) -> None:
    cls: Any = SERVERS[name]
    stream = cls.socket_type == socket.SOCK_STREAM
    handlers: list[Any] = (
        [StreamHandler, PlainStreamHandler] if stream else [DatagramHandler, PlainDatagramHandler]
    )
    handlers.append(functools.partial(functools.partial(handlers[0])))
    for number, handler in enumerate(handlers):
        unix = cls.address_family == socket.AF_UNIX
        with cls(str(tmp_path / f"s{number}") if unix else LOCALHOST, handler) as server:
            with served(server, way):
                exchange(server, tmp_path)
            # And again.
            with served(server, way):
                exchange(server, tmp_path)


# Hooks


class Recording(compat.TCPServer):
    """Notes which hook is called when, and whether it sees a running loop."""

    def __init__(self, handler: Any) -> None:
        super().__init__(LOCALHOST, handler)
        self.calls: list[str] = []
        self.closed = threading.Event()

    def get_request(self) -> Any:
        self.calls.append(f"get_request, {where()}")
        return super().get_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        assert type(request) is socket.socket
        self.calls.append(f"verify_request, {where()}")
        return super().verify_request(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.calls.append(f"process_request, {where()}")
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.calls.append("finish_request")
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.calls.append(f"handle_error: {sys.exc_info()[1]}, {where()}")

    def shutdown_request(self, request: Any) -> None:
        self.calls.append(f"shutdown_request, {where()}")
        super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        self.calls.append(f"close_request, {where()}")
        super().close_request(request)
        self.closed.set()


BEFORE = [
    "get_request, no loop",
    "verify_request, no loop",
    "process_request, no loop",
    "finish_request",
]
AFTER = ["shutdown_request, no loop", "close_request, no loop"]


@pytest.mark.parametrize("way", ["handle_request", "serve_forever", "serve_async"])
def test_hooks_are_called_in_socketservers_order_and_see_no_loop(way: str) -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        server: Any

        async def setup(self) -> None:
            await super().setup()
            self.server.calls.append(f"setup, {where()}")

        async def handle(self) -> None:
            self.server.calls.append(f"handle, {where()}")

        async def finish(self) -> None:
            self.server.calls.append(f"finish, {where()}")
            await super().finish()

    with Recording(Handler) as server, served(server, way):
        assert ask(server.server_address) == b""
        assert server.closed.wait(BOUND)
        assert server.calls == [*BEFORE, "setup, loop", "handle, loop", "finish, loop", *AFTER]


@pytest.mark.parametrize("way", ["handle_request", "serve_forever", "serve_async"])
def test_a_handlers_exception_goes_to_handle_error_and_the_connection_is_closed(way: str) -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"half an answer")
            raise ValueError("wrong")

    with Recording(Handler) as server, served(server, way):
        assert ask(server.server_address) == b"half an answer"
        assert server.closed.wait(BOUND)
        assert server.calls == [*BEFORE, "handle_error: wrong, no loop", *AFTER]


def test_handle_error_prints_what_socketservers_prints(capfd: pytest.CaptureFixture[str]) -> None:
    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            raise ValueError("wrong")

    with serving(compat.TCPServer(LOCALHOST, Handler)) as server:
        with connect(server.server_address) as client:
            address = client.getsockname()
            assert receive_all(client) == b""
        assert ask(server.server_address) == b""
    printed = capfd.readouterr().err
    assert f"Exception occurred during processing of request from {address}\nTraceb" in printed
    assert printed.count("ValueError: wrong\n") == 2


def test_a_request_that_is_not_verified_is_shut_down() -> None:
    class Server(Recording):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return not super().verify_request(request, client_address)

    with serving(Server(StreamHandler)) as server:
        assert ask(server.server_address) == b""
        assert server.closed.wait(BOUND)
        assert server.calls == [*BEFORE[:2], *AFTER]


class Naming(aiosocketserver.StreamRequestHandler):
    """With one more argument."""

    def __init__(self, request: Any, client_address: Any, server: Any, name: str) -> None:
        super().__init__(request, client_address, server)
        self.name = name

    async def handle(self) -> None:
        await self.wfile.write(self.name.encode())


class WithoutReturn(compat.TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> None:
        self.RequestHandlerClass(request, client_address, self, "without")


class WithReturn(compat.TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> Any:
        return self.RequestHandlerClass(request, client_address, self, name="with")


class AsCoroutine(compat.ThreadingTCPServer):
    async def finish_request(self, request: Any, client_address: Any) -> None:  # type: ignore[override]
        await self.RequestHandlerClass(request, client_address, self, name="coroutine")


@pytest.mark.parametrize(
    ("cls", "answer"),
    [(WithoutReturn, b"without"), (WithReturn, b"with"), (AsCoroutine, b"coroutine")],
)
@pytest.mark.parametrize("way", ["handle_request", "serve_forever"])
def test_finish_request_gives_the_handler_more_arguments(cls: Any, answer: bytes, way: str) -> None:
    with cls(LOCALHOST, Naming) as server, served(server, way):
        assert ask(server.server_address) == answer


def test_a_handler_may_have_another_one_serve() -> None:
    class Other(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"once")

    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await Other(self.request, self.client_address, self.server)

    with serving(compat.TCPServer(LOCALHOST, Handler)) as server:
        assert ask(server.server_address) == b"once"


def test_get_request_may_return_what_it_likes_with_a_datagram() -> None:
    class Handler(aiosocketserver.BaseRequestHandler):
        server: Any

        async def handle(self) -> None:
            self.server.seen = (self.request, self.client_address)
            self.server.served.set()

    class Server(compat.UDPServer):
        seen: Any = None

        def get_request(self) -> Any:
            (data, _), address = super().get_request()
            return data.decode(), ("client", address)

    with serving(Server(LOCALHOST, Handler)) as server:
        server.served = threading.Event()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"text", server.server_address)
            assert server.served.wait(BOUND)
            assert server.seen == ("text", ("client", ("127.0.0.1", client.getsockname()[1])))


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="needs epoll")
def test_answers_leave_by_the_socket_that_get_request_has_returned() -> None:
    class Server(compat.UDPServer):
        """Serves two sockets, as programs do that override fileno()."""

        tag = b"tag"
        sockets: dict[int, socket.socket]
        both: Any

        def fileno(self) -> int:
            return int(self.both.fileno())

        def get_request(self) -> Any:
            descriptor = self.both.poll()[0][0]
            data, address = self.sockets[descriptor].recvfrom(100)
            return (data, self.sockets[descriptor]), address

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        select.epoll() as both,
        Server(LOCALHOST, PlainDatagramHandler) as server,
    ):
        second.bind(LOCALHOST)
        server.sockets = {each.fileno(): each for each in (server.socket, second)}
        server.both = both
        for descriptor in server.sockets:
            both.register(descriptor, select.EPOLLIN)
        with served(server, "serve_forever"):
            for each in (server.socket, second, server.socket):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    # Connected, so that it hears nobody else.
                    client.settimeout(BOUND)
                    client.connect(each.getsockname())
                    client.send(b"question")
                    assert client.recv(100) == b"tag question"


def test_connections_have_contexts_of_their_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                before = variable.get()
                variable.set(line.decode())
                await self.wfile.write(f"{before}\n".encode())

    with (
        serving(compat.TCPServer(LOCALHOST, Handler)) as server,
        connect(server.server_address) as a,
        connect(server.server_address) as b,
    ):
        for client, line, answer in [
            (a, b"a\n", b"unset\n"),
            (b, b"b\n", b"unset\n"),
            (a, b"c\n", b"a\n\n"),
            (b, b"d\n", b"b\n\n"),
        ]:
            client.sendall(line)
            assert client.recv(100) == answer


def test_a_program_may_run_a_loop_of_its_own_in_its_hooks() -> None:
    async def answer() -> bool:
        await asyncio.sleep(0)
        return True

    class Server(Recording):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return asyncio.run(answer())

        def shutdown_request(self, request: Any) -> None:
            asyncio.run(answer())
            super().shutdown_request(request)

        def handle_error(self, request: Any, client_address: Any) -> None:
            asyncio.run(answer())

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"answer")
            raise ValueError

    with serving(Server(Handler)) as server:
        assert ask(server.server_address) == b"answer"


@pytest.mark.parametrize("way", ["handle_request", "serve_forever", "serve_async"])
def test_run_in_thread(way: str) -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            name = await self.server.run_in_thread(lambda *args: (where(), args), 1, 2)
            await self.wfile.write(repr(name).encode())

    with compat.TCPServer(LOCALHOST, Handler) as server, served(server, way):
        assert ask(server.server_address) == b"('no loop', (1, 2))"


def test_run_in_thread_is_limited_by_max_threads() -> None:
    running = threading.Semaphore(2)

    def run() -> bool:
        # More than two at once would find it taken.
        if not running.acquire(blocking=False):
            return False
        threading.Event().wait(0.01)
        running.release()
        return True

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            ran = await asyncio.gather(*(self.server.run_in_thread(run) for _ in range(8)))
            await self.wfile.write(repr(all(ran)).encode())

    server = compat.ThreadingTCPServer(LOCALHOST, Handler)
    server.max_threads = 2
    with serving(server):
        assert ask(server.server_address) == b"True"


def test_run_in_thread_outside_of_a_handler_is_an_error() -> None:
    with (
        compat.TCPServer(LOCALHOST, StreamHandler) as server,
        pytest.raises(RuntimeError, match="for a coroutine handler of this server"),
    ):
        server.run_in_thread(print)


def test_at_most_max_concurrency_datagrams_are_served_at_once() -> None:
    class Handler(aiosocketserver.DatagramRequestHandler):
        server: Any

        async def handle(self) -> None:
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            self.server.begun.release()
            await self.server.run_in_thread(self.server.go_on.wait, BOUND)
            self.server.now -= 1
            self.wfile.write(self.packet)

    class Server(compat.UDPServer):
        max_concurrency = 3
        now = most = 0

    with (
        Server(LOCALHOST, Handler) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.begun = threading.Semaphore(0)
        server.go_on = threading.Event()
        client.settimeout(BOUND)
        # All are there before the server looks.
        for number in range(20):
            client.sendto(b"%d" % number, server.server_address)
        with served(server, "serve_forever"):
            for _ in range(3):
                assert server.begun.acquire(timeout=BOUND)
            server.go_on.set()
            assert {int(client.recv(100)) for _ in range(20)} == set(range(20))
        assert server.most == 3


def test_a_thousand_idle_connections_are_served_without_threads() -> None:
    class Server(compat.ThreadingTCPServer):
        request_queue_size = 1024
        tag = b"tag"

    threads = threading.active_count()
    with (
        serving(Server(LOCALHOST, StreamHandler)) as server,
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(connect(server.server_address)) for _ in range(1000)]
        assert ask(server.server_address, b"line\n") == b"tag line\n"
        assert threading.active_count() == threads + 1
        for client in clients:
            client.sendall(b"line\n")
        for client in clients:
            assert receive_all(client) == b"tag line\n"

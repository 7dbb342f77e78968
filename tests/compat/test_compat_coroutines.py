"""Coroutine handlers on compat's servers: every server class, every way to serve."""

import asyncio
import contextlib
import contextvars
import functools
import select
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, receive_all, served, serving

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


@pytest.mark.parametrize("base", [compat.TCPServer, compat.ThreadingTCPServer])
def test_a_wrong_max_threads_is_told(base: Any) -> None:
    class Server(base):  # type: ignore[misc]
        max_threads = 0

    with Server(LOCALHOST, StreamHandler) as server:
        told = "Server.max_threads must be a whole number above 0, or None, and is 0"
        with pytest.raises(ValueError, match=told):
            server.serve_forever()


def test_run_in_thread_outside_of_a_handler_is_an_error() -> None:
    with (
        compat.TCPServer(LOCALHOST, StreamHandler) as server,
        pytest.raises(RuntimeError, match="for a coroutine handler of this server"),
    ):
        server.run_in_thread(print)  # type: ignore[unused-coroutine]


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
        begun: threading.Semaphore
        go_on: threading.Event

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

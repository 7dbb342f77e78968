"""A request that another process was faster to take: the loop goes on without it."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, connect, implementation

FAMILIES = ("TCP", "UnixStream", "UDP", "UnixDatagram")
STREAMS = FAMILIES[:2]
DATAGRAMS = FAMILIES[2:]

# How requests are served: what comes before the server class, and whether by coroutines.
WAYS: dict[str, tuple[type | None, bool]] = {
    "coroutines": (None, True),
    "greenlets": (compat.GreenletMixIn, False),
    "threads": (compat.ThreadingMixIn, False),
    "children": (compat.ForkingMixIn, False),
    "in the serving thread": (None, False),
}


class Echo(compat.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data, self.client_address)
            return
        while data := self.request.recv(100):
            self.request.sendall(data)


class CoroutineEcho(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            await sock.sendto(data, self.client_address)
            return
        while data := await self.request.recv(100):
            await self.request.sendall(data)


def take(sock: socket.socket) -> None:
    """Take a request off a socket, as another process would."""
    if sock.type == socket.SOCK_STREAM:
        sock.accept()[0].close()
    else:
        sock.recvfrom(100)


def get_request_by_super(server: Any) -> Any:
    return super(type(server), server).get_request()


def get_request_by_itself(server: Any) -> Any:
    if server.socket_type == socket.SOCK_STREAM:
        return server.socket.accept()
    data, client_address = server.socket.recvfrom(100)
    return (data, server.socket), client_address


def get_request_with_a_time_out(server: Any) -> Any:
    server.socket.settimeout(3600)
    return super(type(server), server).get_request()


def get_request_that_blocks(server: Any) -> Any:
    server.socket.setblocking(True)
    return get_request_by_itself(server)


def get_message(server: Any) -> Any:
    data, _, _, client_address = server.socket.recvmsg(100)
    return (data, server.socket), client_address


def get_into_a_buffer(server: Any) -> Any:
    buffer = bytearray(100)
    size, client_address = server.socket.recvfrom_into(buffer)
    return (bytes(buffer[:size]), server.socket), client_address


def get_request_by_a_duplicate(server: Any) -> Any:
    with server.socket.dup() as duplicate:
        if server.socket_type == socket.SOCK_STREAM:
            return duplicate.accept()
        data, client_address = duplicate.recvfrom(100)
        return (data, server.socket), client_address


def get_request_from_the_listener(server: Any) -> Any:
    if server.socket_type == socket.SOCK_STREAM:
        return server.listener.accept()
    data, client_address = server.listener.recvfrom(100)
    return (data, server.listener), client_address


def server_with_a_thief(
    family: str, way: str, tmp_path: Path, get_request: Callable[[Any], Any] = get_request_by_super
) -> Any:
    """A server whose requests are stolen while `robbed` is set; `stolen` tells of the first."""
    mix_in, by_coroutines = WAYS[way]
    base = getattr(compat, f"{family}Server")

    class Server(*filter(None, (mix_in, base))):  # type: ignore[misc]
        daemon_threads = True
        robbed = False
        shutdown_timeout = 0.0

        def get_request(self) -> Any:
            if self.robbed:
                self.robbed = False
                take(thief)
                stolen.set()
            return get_request(self)

    address = str(tmp_path / "socket") if family.startswith("Unix") else ("127.0.0.1", 0)
    server = Server(address, CoroutineEcho if by_coroutines else Echo)
    server.stolen = stolen = threading.Event()
    server.thief = thief = server.socket.dup()
    return server


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


@contextmanager
def open_client(server: Any, tmp_path: Path) -> Iterator[socket.socket]:
    if server.socket_type == socket.SOCK_STREAM:
        client = connect(server.server_address)
    else:
        client = socket.socket(server.address_family, socket.SOCK_DGRAM)
        client.settimeout(BOUND)
        if server.address_family == socket.AF_UNIX:
            path = tmp_path / f"client-{client.fileno()}"
            path.unlink(missing_ok=True)
            client.bind(str(path))
        client.connect(server.server_address)
    with client:
        yield client
        if server.socket_type == socket.SOCK_STREAM:
            with suppress(OSError):
                # Seen even if a child has inherited this client.
                client.shutdown(socket.SHUT_WR)


def exchange(client: socket.socket, message: bytes) -> None:
    client.sendall(message)
    assert client.recv(100) == message


def rob(server: Any, tmp_path: Path) -> None:
    """Have the next request stolen between readiness and the server's own attempt."""
    server.robbed = True
    with open_client(server, tmp_path) as client:
        if server.socket_type == socket.SOCK_DGRAM:
            client.send(b"stolen")
        assert server.stolen.wait(BOUND)


@contextmanager
def serving(server: Any, tmp_path: Path, serve: Callable[[], object]) -> Iterator[None]:
    """Have `serve` run in a thread. shutdown() has to end it, without another request."""
    with server, server.thief:
        serving_thread = threading.Thread(target=serve)
        serving_thread.start()
        try:
            yield
        finally:
            stop = threading.Thread(target=server.shutdown)
            stop.start()
            stop.join(BOUND)
            in_time = not stop.is_alive()
            if not in_time:
                with open_client(server, tmp_path) as client:
                    client.send(b"so that it ends")
            serving_thread.join(BOUND)
            stop.join(BOUND)
        assert in_time, "shutdown() waited for a request"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_serve_forever_goes_on_without_a_request_that_is_gone(
    loop: str, family: str, way: str, tmp_path: Path
) -> None:
    server = server_with_a_thief(family, way, tmp_path)
    with serving(server, tmp_path, server.serve_forever):
        rob(server, tmp_path)
        with open_client(server, tmp_path) as client:
            exchange(client, b"after it")
        server.stolen.clear()
        rob(server, tmp_path)


GET_REQUESTS = [
    get_request_by_itself,
    get_request_with_a_time_out,
    get_request_that_blocks,
    get_message,
    get_into_a_buffer,
    get_request_by_a_duplicate,
]


@pytest.mark.parametrize("get_request", GET_REQUESTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_however_get_request_takes(
    loop: str, family: str, get_request: Callable[[Any], Any], tmp_path: Path
) -> None:
    if family in STREAMS and get_request in (get_message, get_into_a_buffer):
        get_request = get_request_by_itself
    server = server_with_a_thief(family, "coroutines", tmp_path, get_request)
    with serving(server, tmp_path, server.serve_forever):
        with open_client(server, tmp_path) as client:
            exchange(client, b"before it")
        rob(server, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_the_server_calls_its_socket(loop: str, family: str, tmp_path: Path) -> None:
    server = server_with_a_thief(family, "coroutines", tmp_path, get_request_from_the_listener)
    # As a subclass of BaseServer may, which needs no `socket` but fileno().
    server.listener, server.socket = server.socket, socket.socket()
    server.fileno = server.listener.fileno
    with server.listener, serving(server, tmp_path, server.serve_forever):
        with open_client(server, tmp_path) as client:
            exchange(client, b"before it")
        rob(server, tmp_path)


@pytest.mark.parametrize("way", ["coroutines", "greenlets"])
@pytest.mark.parametrize("family", STREAMS)
def test_handlers_on_the_loop_answer_meanwhile(
    loop: str, family: str, way: str, tmp_path: Path
) -> None:
    server = server_with_a_thief(family, way, tmp_path)
    with (
        serving(server, tmp_path, server.serve_forever),
        open_client(server, tmp_path) as client,
    ):
        exchange(client, b"before it")
        rob(server, tmp_path)
        exchange(client, b"after it")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_else_runs_on_the_loop_goes_on_beside_serve_async(
    loop: str, family: str, way: str, tmp_path: Path
) -> None:
    server = server_with_a_thief(family, way, tmp_path)
    went_on = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve_async()

    def serve() -> None:
        with asyncio.Runner(loop_factory=loop_named(loop)) as runner:
            runner.run(main())

    with serving(server, tmp_path, serve):
        rob(server, tmp_path)
        loops[0].call_soon_threadsafe(went_on.set)
        assert went_on.wait(BOUND)


def loop_named(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop

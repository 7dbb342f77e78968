"""Threads that have nothing to do any more: gone long before a program's test gives up on them."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, implementation, served, serving

ADDRESS = ("127.0.0.1", 0)

# Seconds that test suites wait for their threads to end, as CPython's own does.
PATIENCE = 5.0


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def until_as_before() -> Iterator[Callable[[], None]]:
    """A function that waits as such programs do; the count is the one when it is first called."""
    counts: list[int] = []

    def wait() -> None:
        if not counts:
            counts.append(threading.active_count())
            return
        deadline = time.monotonic() + PATIENCE
        while threading.active_count() > counts[0]:
            assert time.monotonic() < deadline, threading.enumerate()
            time.sleep(0.02)

    yield wait
    assert counts


class Upper(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)
        else:
            self.request.sendall(self.request.recv(10).upper())


@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.parametrize("most", [None, 2])
@pytest.mark.parametrize("way", ["serve_forever", "serve_async"])
def test_after_many_clients_while_it_serves_on(
    way: str, most: int | None, daemon: bool, until_as_before: Callable[[], None]
) -> None:
    class Server(compat.ThreadingTCPServer):
        request_queue_size = 20
        daemon_threads = daemon
        max_threads = most

    server = Server(ADDRESS, Upper)
    with server, served(server, way):
        until_as_before()
        clients = [connect(server.server_address) for _ in range(20)]
        for client in clients:
            client.sendall(b"a")
        for client in clients:
            assert client.recv(1) == b"A"
            client.close()
        until_as_before()
        # And it still serves.
        assert ask(server.server_address, b"b") == b"B"
        until_as_before()


def test_after_datagrams(until_as_before: Callable[[], None]) -> None:
    with (
        serving(compat.ThreadingUDPServer(ADDRESS, Upper)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        until_as_before()
        client.settimeout(BOUND)
        for _ in range(10):
            client.sendto(b"a", server.server_address)
        for _ in range(10):
            assert client.recv(10) == b"A"
        until_as_before()


def test_after_a_request_of_handle_request(until_as_before: Callable[[], None]) -> None:
    until_as_before()
    with compat.ThreadingTCPServer(ADDRESS, Upper) as server:
        for _ in range(3):
            with connect(server.server_address) as client:
                server.handle_request()
                client.sendall(b"a")
                assert client.recv(1) == b"A"
            until_as_before()


@pytest.mark.parametrize("reuse", [True, False])
def test_after_shutdown_without_server_close(
    reuse: bool, until_as_before: Callable[[], None]
) -> None:
    class Server(compat.ThreadingTCPServer):
        reuse_threads = reuse

    until_as_before()
    server = Server(ADDRESS, Upper)
    with served(server, "serve_forever"):
        assert ask(server.server_address, b"a") == b"A"
    until_as_before()
    server.socket.close()


def test_after_run_in_thread_of_a_coroutine_handler(until_as_before: Callable[[], None]) -> None:
    class InThread(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(await self.server.run_in_thread(line.upper))

    with serving(compat.TCPServer(ADDRESS, InThread)) as server:
        until_as_before()
        with connect(server.server_address) as client:
            client.sendall(b"a\n")
            assert client.recv(2) == b"A\n"
            # The connection goes on.
            until_as_before()
            client.sendall(b"b\n")
            assert client.recv(2) == b"B\n"


def test_after_run_blocking_in_a_greenlet(until_as_before: Callable[[], None]) -> None:
    class Blocking(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            server: Any = self.server
            for line in self.rfile:
                self.wfile.write(server.run_blocking(line.upper) if line == b"a\n" else line)

    with (
        serving(compat.GreenletTCPServer(ADDRESS, Blocking)) as server,
        connect(server.server_address) as client,
    ):
        client.sendall(b"-\n")
        assert client.recv(2) == b"-\n"
        # The greenlets' own thread, which watches the loop, is here as long as they are.
        until_as_before()
        for _ in range(2):
            client.sendall(b"a\n")
            assert client.recv(2) == b"A\n"
            until_as_before()


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_under_load_is_kept(daemon: bool) -> None:
    """Were it not reused, each of these requests would have begun a new one."""
    idents: set[int] = set()

    class Noting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            idents.add(threading.get_native_id())
            self.request.sendall(b"a")

    class Server(compat.ThreadingTCPServer):
        daemon_threads = daemon

    with serving(Server(ADDRESS, Noting)) as server:
        for _ in range(200):
            assert ask(server.server_address) == b"a"
    assert len(idents) < 50

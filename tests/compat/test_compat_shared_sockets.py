"""One socket, many who serve on it, processes and threads; and what it is to everybody else."""

import asyncio
import os
import signal
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import (
    BOUND,
    IMPLEMENTATIONS,
    LOOP_NAMES,
    ask,
    connect,
    implementation,
    in_thread,
    serving,
)

ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


class WhoServes(aiosocketserver.BaseRequestHandler):
    """Answers each message with the number of the process."""

    async def handle(self) -> None:
        answer = b"%d" % os.getpid()
        if isinstance(self.request, tuple):
            await self.request[1].sendto(answer, self.client_address)
            return
        while await self.request.recv(100):
            await self.request.sendall(answer)


def who_serves(client: socket.socket) -> int:
    client.sendall(b"?")
    return int(client.recv(100))


@contextmanager
def processes(server: Any, number: int) -> Iterator[list[int]]:
    """Children that each serve on the server's socket."""
    pids = []
    for _ in range(number):
        pid = os.fork()
        if not pid:
            try:
                server.serve_forever()
            finally:
                os._exit(1)
        pids.append(pid)
    try:
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_process_that_comes_too_late_for_a_connection_serves_its_others(loop: str) -> None:
    class Server(compat.TCPServer):
        request_queue_size = 100

    with Server(ADDRESS, WhoServes) as server, processes(server, 4) as pids, ExitStack() as stack:
        held: dict[int, socket.socket] = {}
        while len(held) < len(pids):
            client = stack.enter_context(connect(server.server_address))
            held[who_serves(client)] = client
        for _ in range(1000):
            with connect(server.server_address) as client:
                assert who_serves(client) in pids
            for pid, client in held.items():
                assert who_serves(client) == pid


def test_processes_share_a_socket_for_datagrams(loop: str) -> None:
    with (
        compat.UDPServer(ADDRESS, WhoServes) as server,
        processes(server, 3) as pids,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BOUND)
        client.connect(server.server_address)
        for _ in range(500):
            assert who_serves(client) in pids


def test_threads_may_each_serve_on_one_socket(loop: str) -> None:
    class Handler(compat.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"answer")

    with socket.create_server(ADDRESS, backlog=100) as listener, ExitStack() as stack:
        for _ in range(4):
            server = compat.TCPServer(listener.getsockname(), Handler, bind_and_activate=False)
            server.socket.close()
            server.socket = listener
            # server_close() is not called: it is for the first one to close the socket.
            stack.enter_context(in_thread(server.serve_forever))
            stack.callback(server.shutdown)
        for _ in range(200):
            assert ask(listener.getsockname()) == b"answer"
        stack.close()
        # As it was: it waits.
        assert type(listener) is socket.socket
        assert os.get_blocking(listener.fileno())


def test_a_thread_may_wait_on_the_server_s_socket(loop: str) -> None:
    """In accept(), while the server takes connections; it may get one of them.

    Under socketserver the server waits then until the next client comes, shutdown() too.
    """
    accepted: list[Any] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"answer")

    def accept() -> None:
        accepted.append(server.socket.accept()[0])
        accepted[0].sendall(b"thread")

    with compat.ThreadingTCPServer(ADDRESS, Handler) as server, in_thread(accept), serving(server):
        answers = set[bytes]()
        while b"thread" not in answers:
            with connect(server.server_address) as client:
                answers.add(client.recv(100))
                for each in accepted:
                    each.close()
    assert answers <= {b"answer", b"thread"}


# What get_request() sees


@pytest.mark.parametrize("timeout", [None, 3600.0, 0.0])
@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_the_time_out_is_the_program_s(module: Any, kind: str, timeout: float | None) -> None:
    seen: list[object] = []

    class Server(getattr(module, kind)):  # type: ignore[misc]
        def get_request(self) -> Any:
            seen.append(self.socket.gettimeout())
            request = super().get_request()
            seen.append(self.socket.gettimeout())
            if kind == "TCPServer":
                seen.append(request[0].gettimeout())
            return request

        def service_actions(self) -> None:
            seen.append(self.socket.gettimeout())
            self._BaseServer__shutdown_request = True

    with Server(ADDRESS, module.BaseRequestHandler) as server:
        server.socket.settimeout(timeout)
        with socket.socket(socket.AF_INET, server.socket_type) as client:
            client.connect(server.server_address)
            client.send(b"x")
            server.serve_forever()
        seen.append(server.socket.gettimeout())
    of_the_connection: list[object] = [None] if kind == "TCPServer" else []
    assert seen == [timeout, timeout, *of_the_connection, timeout, timeout]


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_a_time_out_that_get_request_sets_stays(module: Any, kind: str) -> None:
    class Server(getattr(module, kind)):  # type: ignore[misc]
        def get_request(self) -> Any:
            self.socket.settimeout(3600)
            return super().get_request()

        def service_actions(self) -> None:
            self._BaseServer__shutdown_request = True

    with Server(ADDRESS, module.BaseRequestHandler) as server:
        with socket.socket(socket.AF_INET, server.socket_type) as client:
            client.connect(server.server_address)
            client.send(b"x")
            server.serve_forever()
        assert server.socket.gettimeout() == 3600


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_get_request_may_wait_for_two_where_nothing_else_runs(module: Any, kind: str) -> None:
    """Both players of a game; what the first one got may not be lost."""
    first = threading.Event()

    class Server(getattr(module, kind)):  # type: ignore[misc]
        def get_request(self) -> Any:
            one, address = super().get_request()
            first.set()
            two, _ = super().get_request()
            return (one, two), address

        def finish_request(self, request: Any, client_address: Any) -> None:
            for each, client in zip(request, clients, strict=True):
                if kind == "TCPServer":
                    each.sendall(b"begin")
                    each.close()
                else:
                    each[1].sendto(b"begin", client.getsockname())

        def shutdown_request(self, request: Any) -> None:
            pass

    with Server(ADDRESS, module.BaseRequestHandler) as server, serving(server):
        clients = [socket.socket(socket.AF_INET, server.socket_type) for _ in range(2)]
        with clients[0], clients[1]:
            for client in clients:
                client.settimeout(BOUND)
                client.connect(server.server_address)
                client.send(b"x")
                assert first.wait(BOUND)
            assert [client.recv(100) for client in clients] == [b"begin"] * 2


def test_get_request_that_waits_for_a_second_client_is_ended_by_shutdown(loop: str) -> None:
    first = threading.Event()
    kept = []

    class Server(compat.TCPServer):
        def get_request(self) -> Any:
            kept.append(super().get_request()[0])
            first.set()
            return super().get_request()

    with (
        Server(ADDRESS, compat.BaseRequestHandler) as server,
        serving(server),
        connect(server.server_address),
    ):
        assert first.wait(BOUND)
    kept[0].close()


def test_a_socket_of_the_program_s_own_class_keeps_its_methods(module: Any) -> None:
    class Counting(socket.socket):
        calls = 0

        def recvfrom(self, size: int) -> Any:  # type: ignore[override]
            self.calls += 1
            return super().recvfrom(size)

    class Server(module.UDPServer):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, bind_and_activate=False)
            self.socket.close()
            self.socket: socket.socket = Counting(socket.AF_INET, socket.SOCK_DGRAM)
            self.server_bind()

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(data, self.client_address)

    with Server(ADDRESS, Handler) as server, serving(server):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(BOUND)
            client.sendto(b"x", server.server_address)
            assert client.recv(100) == b"x"
        assert server.socket.calls == 1
        assert type(server.socket) is Counting


@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
async def test_two_servers_on_one_loop_may_share_a_socket(kind: str) -> None:
    """Both find it readable in one turn, and the second that nothing is left."""
    cls = getattr(compat, kind)
    with cls(ADDRESS, WhoServes) as first, cls(ADDRESS, WhoServes) as second:
        second.socket.close()
        second.socket = first.socket.dup()
        servings = [asyncio.create_task(server.serve_async()) for server in (first, second)]
        with socket.socket(first.address_family, first.socket_type) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            for _ in range(3):
                await loop.sock_connect(client, first.server_address)
                await loop.sock_sendall(client, b"?")
                assert int(await loop.sock_recv(client, 100)) == os.getpid()
                if kind == "TCPServer":
                    break
        for server in (first, second):
            await asyncio.to_thread(server.shutdown)
        await asyncio.gather(*servings)

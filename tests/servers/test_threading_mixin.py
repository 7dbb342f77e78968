"""Legacy handlers in threads: socketserver's own classes on the Threading servers."""

import asyncio
import http.server
import os
import re
import socket
import socketserver
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import aiosocketserver
from tests.support import Peer, ask, client_of
from tests.threading_support import Echo, Held, telling, threading_server

colour: ContextVar[str] = ContextVar("colour", default="none")


# --- handlers made for socketserver ---


async def test_standard_librarys_handler_runs_unchanged() -> None:
    class Upper(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            assert type(self.request) is socket.socket
            for line in self.rfile:
                self.wfile.write(line.upper())

    async with threading_server(Upper) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"one\ntwo\n") == b"ONE\nTWO\n"


async def test_http_server_of_the_standard_library_serves_a_directory_to_curl(
    tmp_path: Path, require_program: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    curl = require_program("curl")
    content = os.urandom(300_000)
    (tmp_path / "file.bin").write_bytes(content)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))

    async def fetch(path: str) -> bytes:
        host, port = server.server_address
        process = await asyncio.create_subprocess_exec(
            *(curl, "-sS", "--fail", "--noproxy", "*", f"http://{host}:{port}{path}"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output

    async with threading_server(handler) as server:
        await server.start_serving()
        assert b"file.bin" in await fetch("/")
        assert await fetch("/file.bin") == content
    assert '"GET /file.bin HTTP/1.1" 200' in capfd.readouterr().err


async def test_unix_stream_server_runs_legacy_handlers(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with aiosocketserver.ThreadingUnixStreamServer(path, Echo) as server:
        await server.start_serving()
        assert await ask(path, b"hello") == b"hello"


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_datagram_servers_run_legacy_handlers(kind: str, tmp_path: Path) -> None:
    """Many at once on one socket, whose sendto() blocks."""
    together = threading.Barrier(10)

    class Upper(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            together.wait(10)
            assert self.socket.gettimeout() is None
            assert os.get_blocking(self.socket.fileno())
            self.wfile.write(self.rfile.read().upper())

    server: Any = (
        aiosocketserver.ThreadingUDPServer(("127.0.0.1", 0), Upper)
        if kind == "udp"
        else aiosocketserver.ThreadingUnixDatagramServer(str(tmp_path / "s"), Upper)
    )
    async with server:
        await server.start_serving()
        with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0) if kind == "udp" else str(tmp_path / "c"))
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            for _ in range(2):
                for number in range(10):
                    client.sendto(b"x%d" % number, server.server_address)
                answers = {await loop.sock_recv(client, 100) for _ in range(10)}
                assert answers == {b"X%d" % number for number in range(10)}
    assert server.statistics.datagrams_dropped == 0


async def test_coroutine_handler_runs_on_the_loop() -> None:
    seen = []

    class OnLoop(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            seen.append(threading.current_thread())
            await self.wfile.write(await self.rfile.read())

    async with threading_server(OnLoop, max_threads=1) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"hello") == b"hello"
    assert seen == [threading.current_thread()]


async def test_process_request_thread_may_be_overridden() -> None:
    called: SimpleQueue[str] = SimpleQueue()

    class Overridden(aiosocketserver.ThreadingTCPServer):
        def process_request_thread(self, request: Any, client_address: Any) -> None:
            called.put(threading.current_thread().name)
            super().process_request_thread(request, client_address)

    async with Overridden(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"hello") == b"hello"
    assert called.get(timeout=10).endswith("(process_request_thread)")


async def test_hooks_run_in_socketservers_order_and_threads() -> None:
    called: list[tuple[str, bool]] = []
    loops_thread = threading.get_ident()

    def note(name: str) -> None:
        called.append((name, threading.get_ident() == loops_thread))

    class Traced(aiosocketserver.ThreadingTCPServer):
        def get_request(self) -> Any:
            request = super().get_request()
            note("get_request")
            return request

        def verify_request(self, request: Any, client_address: Any) -> Any:
            note("verify_request")
            return True

        def process_request(self, request: Any, client_address: Any) -> Any:
            note("process_request")
            return super().process_request(request, client_address)

        def finish_request(self, request: Any, client_address: Any) -> Any:
            note("finish_request")
            return super().finish_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            note("shutdown_request")
            super().shutdown_request(request)

        def close_request(self, request: Any) -> None:
            note("close_request")
            super().close_request(request)

    async with Traced(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        await ask(server.server_address)
    assert called == [
        ("get_request", True),
        ("verify_request", True),
        ("process_request", True),
        ("finish_request", False),
        ("shutdown_request", False),
        ("close_request", False),
    ]


async def test_handle_request_serves_one_connection() -> None:
    async with threading_server(Echo) as server:
        question = asyncio.create_task(ask(server.server_address, b"hello"))
        await server.handle_request()
        assert await question == b"hello"


# --- threads ---


async def test_reused_thread_looks_like_a_new_one() -> None:
    def tell() -> str:
        thread = threading.current_thread()
        seen = f"{thread.name}|{thread.daemon}|{colour.get()}"
        colour.set("red")
        return seen

    colour.set("the server's")
    idents = set()

    class Server(aiosocketserver.ThreadingTCPServer):
        def process_request_thread(self, request: Any, client_address: Any) -> None:
            idents.add(threading.get_ident())
            super().process_request_thread(request, client_address)

    async with Server(("127.0.0.1", 0), telling(tell)) as server:
        await server.start_serving()
        answers = [(await ask(server.server_address)).decode() for _ in range(5)]
    numbers = []
    for answer in answers:
        match = re.fullmatch(
            r"Thread-(\d+) \(process_request_thread\)\|False\|the server's", answer
        )
        assert match, answer
        numbers.append(int(match[1]))
    assert numbers == list(range(numbers[0], numbers[0] + 5))
    assert len(idents) < 5


@pytest.mark.parametrize("daemon", [True, False])
async def test_threads_are_daemons_as_asked(daemon: bool) -> None:
    tell = telling(lambda: threading.current_thread().daemon)
    async with threading_server(tell, daemon_threads=daemon) as server:
        await server.start_serving()
        assert await ask(server.server_address) == str(daemon).encode()


async def test_without_reuse_each_request_has_a_new_thread() -> None:
    local = threading.local()

    def tell() -> bool:
        before = hasattr(local, "seen")
        local.seen = True
        return before

    async with threading_server(telling(tell), reuse_threads=False) as server:
        await server.start_serving()
        assert [await ask(server.server_address) for _ in range(3)] == [b"False"] * 3


async def test_blocked_handlers_do_not_starve_the_next(tmp_path: Path) -> None:
    async with threading_server(Held) as server:
        await server.start_serving()
        clients = []
        for _ in range(501):
            sock = socket.socket()
            clients.append(Peer(sock))
            await asyncio.get_running_loop().sock_connect(sock, server.server_address)
        for client in reversed(clients):
            assert await client.receive(6) == b"begun\n"
        for client in clients:
            client.sock.close()


async def test_max_threads_pauses_accepting_and_resumes() -> None:
    accepted = 0

    class Counting(aiosocketserver.ThreadingTCPServer):
        def get_request(self) -> Any:
            nonlocal accepted
            request = super().get_request()
            accepted += 1
            return request

    colour.set("the server's")

    class Begin(Held):
        def handle(self) -> None:
            self.wfile.write(colour.get().encode() + b"\n")
            super().handle()

    address = ("127.0.0.1", 0)
    async with Counting(address, Begin, max_threads=2) as server:
        await server.start_serving()
        address = server.server_address
        async with (
            client_of(address) as one,
            client_of(address) as two,
            client_of(address) as three,
        ):
            greeting = b"the server's\nbegun\n"
            assert await one.receive(len(greeting)) == greeting
            assert await two.receive(len(greeting)) == greeting
            assert accepted == 2
            await one.send(b"\n")
            assert await one.receive_all() == b""
            assert await three.receive(len(greeting)) == greeting
            assert accepted == 3

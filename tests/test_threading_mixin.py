"""Legacy handlers in threads: socketserver's own classes on the Threading servers."""

import asyncio
import http.server
import logging
import os
import re
import socket
import socketserver
import sys
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

colour: ContextVar[str] = ContextVar("colour", default="none")


class Tell(socketserver.StreamRequestHandler):
    """Answers with what `tell` returns."""

    def tell(self) -> object:
        raise NotImplementedError

    def handle(self) -> None:
        self.wfile.write(str(self.tell()).encode())


def telling(tell: Callable[[], object]) -> type[Tell]:
    class Handler(Tell):
        def tell(self) -> object:
            return tell()

    return Handler


class Held(socketserver.StreamRequestHandler):
    """Answers with a line, and ends when its client sends one."""

    def handle(self) -> None:
        self.wfile.write(b"begun\n")
        self.rfile.readline()


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read())


def threading_server(
    handler: Callable[..., Any], **options: Any
) -> aiosocketserver.ThreadingTCPServer:
    return aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), handler, **options)


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


# --- errors ---


async def test_failing_handler_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def tell() -> None:
        raise ConnectionResetError("by the database, not by the client")

    async with threading_server(telling(tell)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert server.statistics.handlers_failed == 1
    assert server.statistics.clients_vanished == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_vanished_client_leaves_no_traceback(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")

    class Chatter(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while True:
                self.wfile.write(bytes(1000))

    server: Any = (
        threading_server(Chatter)
        if kind == "tcp"
        else aiosocketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Chatter)
    )
    async with server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.receive(10)
    assert server.statistics.clients_vanished == 1
    assert server.statistics.handlers_failed == 0
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("INFO", None)


async def test_system_exit_ends_only_its_request(caplog: pytest.LogCaptureFixture) -> None:
    def tell() -> None:
        raise SystemExit(3)

    async with threading_server(telling(tell)) as server:
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        assert await ask(server.server_address) == b""
        assert await ask(server.server_address) == b""
        assert not serving.done()
        await server.shutdown()
        await serving
    assert not caplog.records


async def test_thread_that_cannot_be_started_costs_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with threading_server(Echo) as server:
        await server.start_serving()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            assert await ask(server.server_address) == b""
        assert "can't start new thread" in caplog.text
        assert await ask(server.server_address, b"hello") == b"hello"


async def test_handle_error_may_be_a_coroutine() -> None:
    reported: list[Any] = []

    class Reporting(aiosocketserver.ThreadingTCPServer):
        async def handle_error(self, request: Any, client_address: Any) -> None:
            await asyncio.sleep(0)
            reported.append((sys.exception(), threading.current_thread()))

    def tell() -> None:
        raise ValueError("as asked")

    async with Reporting(("127.0.0.1", 0), telling(tell)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    ((error, thread),) = reported
    assert isinstance(error, ValueError)
    assert thread is threading.current_thread()


async def test_finish_request_that_returns_an_awaitable_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(aiosocketserver.ThreadingTCPServer):
        async def finish_request(self, request: Any, client_address: Any) -> None:
            pass

    async with Wrong(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    assert "returned an awaitable" in caplog.text


# --- the end ---


async def test_whole_answer_arrives_over_unread_input() -> None:
    answer = os.urandom(200_000)

    class Rude(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer)

    async with threading_server(Rude) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(bytes(100_000))
            assert await client.receive_all() == answer


async def test_no_thread_is_left_after_shutdown() -> None:
    before = set(threading.enumerate())
    async with threading_server(Echo) as server:
        await server.start_serving()
        await asyncio.gather(*(ask(server.server_address, b"x") for _ in range(10)))
        mine = set(threading.enumerate()) - before
        assert mine
        await server.shutdown()
        for thread in mine:
            thread.join(10)
            assert not thread.is_alive()


async def test_shutdown_waits_for_threads_and_releases_a_stuck_one_at_the_deadline() -> None:
    ended = threading.Event()

    class Stuck(Held):
        def finish(self) -> None:
            ended.set()

    async with threading_server(Stuck) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            await server.shutdown(timeout=0.05)
            assert ended.is_set()


async def test_thread_that_does_not_end_is_reported_and_abandoned(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiosocketserver.server._GRACE", 0.05)
    released = threading.Event()

    class Deaf(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"begun\n")
            released.wait(30)

    async with threading_server(Deaf) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            await server.shutdown(timeout=0)
        assert re.search(r"the thread 'Thread-\d+ .*did not end", caplog.text)
        released.set()


@pytest.mark.parametrize("options", [{"daemon_threads": True}, {"block_on_close": False}])
async def test_shutdown_does_not_wait_for_threads_that_nobody_awaits(
    options: dict[str, Any],
) -> None:
    async with threading_server(Held, **options) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            await server.shutdown(timeout=None)
            await client.send(b"\n")
            assert await client.receive_all() == b""


async def test_thread_outlives_the_loop() -> None:
    """What it still has to close, it closes itself."""
    sent = bytes(100_000)

    class Late(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"begun\n")
            assert released.wait(30)
            self.wfile.write(b"late\n")

    released = threading.Event()
    addresses: SimpleQueue[Any] = SimpleQueue()

    async def serve() -> None:
        async with threading_server(Late, block_on_close=False) as server:
            await server.start_serving()
            addresses.put(server.server_address)
            await asyncio.get_running_loop().run_in_executor(None, begun.wait, 10)

    begun = threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    async with client_of(await asyncio.to_thread(addresses.get)) as client:
        await client.send(sent)
        assert await client.receive(6) == b"begun\n"
        begun.set()
        await asyncio.to_thread(thread.join)
        released.set()
        assert await client.receive_all() == b"late\n"

"""Legacy handlers in threads: what fails, and how a server with threads ends."""

import asyncio
import logging
import os
import re
import socketserver
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import aiosocketserver
from tests.support import ask, client_of
from tests.threading_support import Echo, Held, telling, threading_server

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


# pytest counts it, where threading's own hook is silent.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
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
    monkeypatch.setattr("aiosocketserver.servers.draining._GRACE", 0.05)
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

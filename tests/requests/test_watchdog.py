"""What holds the loop is reported while it does."""

import asyncio
import contextlib
import inspect
import logging
import queue
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.requests import watchdog
from tests.greenlet_support import greenlet_server, handling
from tests.support import ask, client_of, until, until_later


@pytest.fixture
def warnings() -> Iterator["queue.SimpleQueue[logging.LogRecord]"]:
    """The warnings of the package, from whatever thread they come."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                records.put(record)

    handler = Handler()
    logging.getLogger("aiosocketserver").addHandler(handler)
    yield records
    logging.getLogger("aiosocketserver").removeHandler(handler)


def line_of(function: Callable[..., object], text: str) -> str:
    """`FILE line N` of the line of a function that has `text` in it."""
    lines, first = inspect.getsourcelines(function)
    number = first + next(index for index, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(function)} line {number}"


async def test_a_greenlet_that_blocks_is_reported_while_it_does(
    warnings: "queue.SimpleQueue[logging.LogRecord]",
) -> None:
    reported = threading.Event()

    def handle(handler: Any) -> None:
        assert reported.wait(20)
        handler.request.sendall(b"done")

    def notice() -> logging.LogRecord:
        record = warnings.get(timeout=20)
        # Only now the handler goes on.
        reported.set()
        return record

    async with greenlet_server(handling(handle), blocking_warning=0.05) as server:
        await server.start_serving()
        noticing = asyncio.create_task(asyncio.to_thread(notice))
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b"done"
            address = client.sock.getsockname()
        record = await noticing
    message = record.getMessage()
    assert message.startswith("the loop has been held for 0.")
    assert f"by handling.<locals>.Handler, which serves {address!r}, and all" in message
    assert line_of(handle, "reported.wait") in message
    assert ", in handle\n" in message
    # Where exactly, in a library.
    assert 'threading.py", line' in message
    assert vars(record)["client_address"] == address
    assert server.statistics.loop_blocked == 1


async def test_a_coroutine_that_blocks_is_reported_once_for_each_place(
    warnings: "queue.SimpleQueue[logging.LogRecord]",
) -> None:
    def until_counted(before: int, told: threading.Event) -> None:
        while server.statistics.loop_blocked == before:
            time.sleep(0.01)
        told.set()

    class Blocks(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            told = threading.Event()
            arguments = (self.server.statistics.loop_blocked, told)
            threading.Thread(target=until_counted, args=arguments, daemon=True).start()
            assert told.wait(20)
            await self.request.sendall(b"done")

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Blocks, blocking_warning=0.02) as server:
        await server.start_serving()
        for _ in range(3):
            assert await ask(server.server_address) == b"done"
    message = warnings.get(timeout=20).getMessage()
    assert line_of(Blocks, "told.wait") in message
    assert "Blocks, which serves" in message
    assert warnings.empty()
    assert server.statistics.loop_blocked == 3


async def test_two_greenlets_that_wait_for_each_other_are_found(
    warnings: "queue.SimpleQueue[logging.LogRecord]",
) -> None:
    """A lock held while its holder waits for its client stops the process: so it is told."""
    lock = threading.Lock()

    def handle(handler: Any) -> None:
        # The time-out is for the case that this test fails.
        assert lock.acquire(timeout=20)
        handler.request.sendall(b"has it\n")
        handler.request.recv(1)

    async with greenlet_server(handling(handle), blocking_warning=0.05) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            assert await first.receive(7) == b"has it\n"

            def notice() -> str:
                message = warnings.get(timeout=20).getMessage()
                # In the handler's stead, which waits for a loop that it holds up itself.
                lock.release()
                return message

            noticing = asyncio.create_task(asyncio.to_thread(notice))
            async with client_of(server.server_address) as second:
                assert await second.receive(7) == b"has it\n"
                message = await noticing
    assert line_of(handle, "lock.acquire") in message


async def test_others_tasks_are_named_as_such(
    warnings: "queue.SimpleQueue[logging.LogRecord]",
) -> None:
    def block() -> None:
        time.sleep(0.2)

    class Waits(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.recv(1)

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Waits, blocking_warning=0.02) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await until(lambda: server.statistics.active == 1)
            # The next turn of the loop holds it.
            asyncio.get_running_loop().call_soon(block)
            await asyncio.sleep(0)
            message = await asyncio.to_thread(lambda: warnings.get(timeout=20).getMessage())
    assert "by code that belongs to no request, and all clients with it: " in message
    assert line_of(block, "time.sleep") in message


async def test_many_requests_in_one_turn_of_the_loop_are_not_reported(
    warnings: "queue.SimpleQueue[logging.LogRecord]",
) -> None:
    """Each of them is quick, and nobody in particular holds the loop."""

    def handle(handler: Any) -> None:
        handler.request.recv(1)
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass

    async with greenlet_server(handling(handle), blocking_warning=0.05) as server:
        await server.start_serving()
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(client_of(server.server_address))
                for _ in range(100)
            ]
            await until(lambda: server.statistics.active == 100)
            for client in clients:
                client.sock.send(b"x")
            await until(lambda: server.statistics.finished == 100)
    assert warnings.empty()
    assert server.statistics.loop_blocked == 0


async def test_what_only_waits_is_not_reported(
    warnings: "queue.SimpleQueue[logging.LogRecord]", monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    class Impatient(threading.Event):
        """One for each question, and one that the watchdog waits for between two of them."""

        def __init__(self) -> None:
            nonlocal asked
            super().__init__()
            asked += 1

        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(0.001 if timeout == limit / 2 else timeout)

    def handle(handler: Any) -> None:
        handler.request.recv(1)

    # No machine is so busy that the loop would not answer in time.
    limit = 30.0
    impatient = types.SimpleNamespace(**vars(threading) | {"Event": Impatient})
    monkeypatch.setattr(watchdog, "threading", impatient)
    async with greenlet_server(handling(handle), blocking_warning=limit) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.requests())
            before = asked
            await until_later(lambda: asked > before + 10)
            assert [each.waits_for for each in server.requests()] == ["reading"]
            await client.send(b"x")
            assert await client.receive_all() == b""
    assert warnings.empty()
    assert server.statistics.loop_blocked == 0


async def test_one_thread_watches_a_loop_and_ends_with_the_last_server() -> None:
    def watching() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.endswith("watchdog")]

    before = len(watching())
    handler = handling(lambda handler: None)
    async with greenlet_server(handler) as first:
        await first.start_serving()
        async with greenlet_server(handler) as second:
            await second.start_serving()
            assert len(watching()) == before + 1
            assert len(watchdog._watchdogs) == 1
        assert len(watchdog._watchdogs) == 1
    assert not watchdog._watchdogs
    for thread in watching():
        thread.join(20)
    assert not watching()


async def test_it_is_off_for_other_servers() -> None:
    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            pass

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        assert server.blocking_warning is None
        await server.start_serving()
        assert not watchdog._watchdogs

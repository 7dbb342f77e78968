"""A handler of datagrams cannot tell that its worker served others before."""

import asyncio
import contextlib
import socket
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

import aiosocketserver
from tests.datagram_support import CountingServer, Gated, Handler, ask, receive
from tests.support import wait_until_readable

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def gated() -> type[Gated]:
    class Fresh(Gated):
        begun = asyncio.Queue()
        gate = asyncio.Event()

    return Fresh


async def test_instant_handlers_share_a_task(client: socket.socket) -> None:
    tasks = []

    class Instant(Handler):
        async def handle(self) -> None:
            # Not its name, which a task that starts eagerly is given only then (3.13.0).
            task = asyncio.current_task()
            assert task is not None
            tasks.append(weakref.ref(task))
            await self.reply(b"done")

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Instant) as server:
        await server.start_serving()
        for _ in range(50):
            assert await ask(client, server, b"x") == b"done"
    assert len(tasks) == 50
    # Of one task there is one such reference.
    assert len(set(map(id, tasks))) == 1


async def test_context_variables_do_not_leak_to_the_next_datagram(client: socket.socket) -> None:
    class Paint(Handler):
        async def handle(self) -> None:
            await self.reply(colour.get())
            colour.set("red")

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Paint) as server:
        await server.start_serving()
        for _ in range(5):
            assert await ask(client, server, b"x") == b"none"


async def test_context_variables_do_not_leak_to_a_datagram_that_waits(
    client: socket.socket, gated: type[Gated]
) -> None:
    class Paint(gated):  # type: ignore[misc, valid-type]
        async def handle(self) -> None:
            await super().handle()
            await self.reply(colour.get())
            colour.set("red")

    colour.set("the server's")
    async with CountingServer(("127.0.0.1", 0), Paint, max_concurrency=1) as server:
        await server.start_serving()
        server.wanted = 4
        for _ in range(4):
            client.sendto(b"x", server.server_address)
        await server.all_read.wait()
        await Paint.begun.get()
        gated.gate.set()
        for _ in range(4):
            assert await receive(client) == b"the server's"


async def test_cancelled_handler_costs_only_its_own_datagram(
    client: socket.socket, gated: type[Gated]
) -> None:
    class Cancelled(gated):  # type: ignore[misc, valid-type]
        async def handle(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            if self.request[0] == b"cancel":
                task.cancel()
            await asyncio.sleep(0)
            await self.reply(f"{task.cancelling()}")

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Cancelled) as server:
        await server.start_serving()
        for _ in range(5):
            client.sendto(b"cancel", server.server_address)
            assert await ask(client, server, b"x") == b"0"


async def test_swallowed_cancellation_is_not_seen_by_the_next_datagram(
    client: socket.socket,
) -> None:
    class Swallow(Handler):
        async def handle(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            before = task.cancelling()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            await self.reply(f"{before}")

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Swallow) as server:
        await server.start_serving()
        for _ in range(5):
            assert await ask(client, server, b"x") == b"0"


async def test_cancellation_taken_back_is_not_seen_by_the_next_datagram(
    client: socket.socket,
) -> None:
    class TakeBack(Handler):
        async def handle(self) -> None:
            if self.request[0] == b"x":
                await asyncio.sleep(0)
            await self.reply(b"done")
            if self.request[0] == b"cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                task.uncancel()

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), TakeBack) as server:
        await server.start_serving()
        # Together, so that one worker takes both.
        client.sendto(b"cancel", server.server_address)
        client.sendto(b"x", server.server_address)
        assert [await receive(client), await receive(client)] == [b"done", b"done"]


async def test_late_cancellation_of_a_handler_does_not_reach_the_next(
    client: socket.socket,
) -> None:
    kept: list[asyncio.Task[Any]] = []

    class Keep(Handler):
        async def handle(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            if self.request[0] == b"keep":
                kept.append(task)
            else:
                for earlier in kept:
                    earlier.cancel()
                await asyncio.sleep(0)
            await self.reply(b"done")

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Keep) as server:
        await server.start_serving()
        for _ in range(3):
            assert await ask(client, server, b"keep") == b"done"
            assert await ask(client, server, b"x") == b"done"


async def test_idle_worker_that_is_cancelled_is_replaced(client: socket.socket) -> None:
    class Echo(Handler):
        async def handle(self) -> None:
            await self.reply(self.request[0])

    before = asyncio.all_tasks()
    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        assert await ask(client, server, b"one") == b"one"
        (worker,) = asyncio.all_tasks() - before
        worker.cancel()
        client.sendto(b"two", server.server_address)
        wait_until_readable(server)
        assert await receive(client) == b"two"


async def test_shutdown_asked_for_by_a_datagram_waits_for_the_next_one(
    client: socket.socket,
) -> None:
    """The worker of the handler that asked serves another datagram by then."""
    shutdowns = []
    gate = asyncio.Event()

    class Quit(Handler):
        async def handle(self) -> None:
            if self.request[0] == b"quit":
                shutdowns.append(asyncio.create_task(self.server.shutdown()))
            else:
                await self.reply(b"begun")
                await gate.wait()

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Quit) as server:
        await server.start_serving()
        client.sendto(b"quit", server.server_address)
        client.sendto(b"slow", server.server_address)
        assert await receive(client) == b"begun"
        for _ in range(5):
            await asyncio.sleep(0)
        assert not shutdowns[0].done()
        gate.set()
        await shutdowns[0]


async def test_workers_above_the_idle_ones_end(client: socket.socket, gated: type[Gated]) -> None:
    before = asyncio.all_tasks()
    async with aiosocketserver.UDPServer(("127.0.0.1", 0), gated) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        await server.start_serving()
        for _ in range(150):
            client.sendto(b"x", server.server_address)
        for _ in range(150):
            await gated.begun.get()
        workers = asyncio.all_tasks() - before
        assert len(workers) >= 150
        gated.gate.set()
        done, _ = await asyncio.wait(workers, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        assert done
        # Those that are left serve the next.
        client.sendto(b"x", server.server_address)
        await gated.begun.get()
        assert len(asyncio.all_tasks() - before) <= 64

"""Cancelling what a handler awaits on its socket is exact: no byte is lost, no cancel swallowed."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import pytest

from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.lingering import LingeringSockets
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import connected, fill, until, wait_until_readable

Receive = Callable[[StreamSocket, int], Awaitable[bytes]]


async def recv_into(request: StreamSocket, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: await request.recv_into(buffer)])


each_receive = pytest.mark.parametrize(
    "receive", [StreamSocket.recv, recv_into], ids=["recv", "recv_into"]
)


@each_receive
async def test_a_waiting_receive_is_cancelled_with_its_message(receive: Receive) -> None:
    async with connected() as (request, peer):
        received = asyncio.ensure_future(receive(request, 10))
        await asyncio.sleep(0)
        assert received.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await received
        await peer.send(b"all of it")
        assert await receive(request, 10) == b"all of it"


@each_receive
async def test_a_cancel_before_data_in_the_same_turn_is_delivered(receive: Receive) -> None:
    async with connected() as (request, peer):
        received = asyncio.ensure_future(receive(request, 10))
        await asyncio.sleep(0)
        received.cancel("because")
        peer.sock.send(b"all of it")
        wait_until_readable(request)
        with pytest.raises(asyncio.CancelledError, match="because"):
            await received
        assert await receive(request, 10) == b"all of it"


@each_receive
async def test_a_cancel_after_data_in_the_same_turn_is_delivered(receive: Receive) -> None:
    async with connected() as (request, peer):
        received = asyncio.ensure_future(receive(request, 10))
        await asyncio.sleep(0)
        peer.sock.send(b"all of it")
        wait_until_readable(request)
        received.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await received
        assert await receive(request, 10) == b"all of it"


async def test_a_cancel_after_the_bytes_were_returned_strikes_at_the_next_wait() -> None:
    async with connected() as (request, peer):
        taken: list[bytes] = []

        async def handle() -> None:
            taken.append(await request.recv(10))
            # Cancelled while it runs: from inside the reader's callback.
            task.cancel("because")
            await request.recv(10)

        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        await peer.send(b"taken")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await task
        await peer.send(b"kept")
        assert taken == [b"taken"]
        assert await request.recv(10) == b"kept"


async def test_a_second_cancel_does_not_get_lost() -> None:
    async with connected() as (request, _):

        async def stubborn() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await request.recv(10)
            await request.recv(10)

        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        task.cancel("first")
        await asyncio.sleep(0)
        task.cancel("second")
        with pytest.raises(asyncio.CancelledError, match="second"):
            await task
        assert task.cancelling() == 2


@each_receive
async def test_a_cancel_where_a_receive_gives_way_loses_nothing(receive: Receive) -> None:
    ours, theirs = socket.socketpair()
    async with connected((ours, theirs)) as (request, peer):
        count = fill(peer.sock)
        received = 0

        async def handle() -> None:
            nonlocal received
            while True:
                received += len(await receive(request, 64))

        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        # It has had its turn, and is not waiting for input: there is more.
        assert 0 < received < count
        task.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await task
        peer.finish()
        while block := await receive(request, 64 * 1024):
            received += len(block)
        assert received == count


async def test_a_time_out_of_asyncio_loses_nothing() -> None:
    async with connected() as (request, peer):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await request.recv(10)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(request.recv(10), 0.01)
        await peer.send(b"all of it")
        assert await request.recv(10) == b"all of it"


async def test_a_waiting_sendall_is_cancelled_and_has_sent_a_prefix() -> None:
    async with connected() as (request, peer):
        sending = asyncio.create_task(request.sendall(b"x" * 4_000_000))
        await asyncio.sleep(0)
        sending.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await sending
        await SocketWriter(request).write(b"after")
        request.shutdown(socket.SHUT_WR)
        received = await peer.receive_all()
        prefix = received.removesuffix(b"after")
        assert len(prefix) == len(received) - 5
        assert 0 < len(prefix) < 4_000_000
        assert prefix.strip(b"x") == b""


async def test_a_cancel_where_a_sendall_gives_way_is_delivered() -> None:
    async with connected() as (request, peer):
        request._credit = 1

        async def handle() -> None:
            await request.sendall(b"one")
            await request.sendall(b"two")

        task = asyncio.create_task(handle())
        await until(lambda: request._credit > 1)  # it has some more when it gives way
        assert peer.sock.recv(10) == b"one"
        task.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await task
        await request.sendall(b"three")
        assert await peer.receive(5) == b"three"


async def test_a_cancelled_flush_leaves_the_rest_pending() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = fill(ours)
    async with connected((ours, theirs)) as (request, peer):
        writer = SocketWriter(request)
        await writer.write(b"all of it")
        flushing = asyncio.create_task(writer.flush())
        await asyncio.sleep(0)
        flushing.cancel("because")
        with pytest.raises(asyncio.CancelledError, match="because"):
            await flushing
        await peer.receive(filled)
        assert await peer.receive(9) == b"all of it"


# --- cancelled at each suspension of a whole exchange ---


class CancelAt:
    """Runs a coroutine and has its task cancelled at the n-th time that it suspends.

    `when` is "at once", before the wait has begun; "soon", in the same turn of the loop;
    "late", a turn after it.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], n: int, when: str) -> None:
        self._coroutine = coroutine
        self._remaining = n
        self._when = when

    @property
    def reached(self) -> bool:
        return self._remaining <= 0

    def __await__(self) -> Generator[Any, Any, None]:
        throw: BaseException | None = None
        while True:
            try:
                if throw is None:
                    suspended_in = self._coroutine.send(None)
                else:
                    suspended_in = self._coroutine.throw(throw)
            except StopIteration:
                return
            throw = None
            self._remaining -= 1
            if self._remaining == 0:
                self._cancel()
            try:
                yield suspended_in
            except asyncio.CancelledError as error:
                throw = error

    def _cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        if self._when == "at once":
            task.cancel()
        elif self._when == "soon":
            loop.call_soon(task.cancel)
        else:
            loop.call_soon(lambda: loop.call_soon(task.cancel))


MESSAGES = [bytes([65 + n]) * size for n, size in enumerate([1, 30_000, 7, 300_000, 1, 120_000])]


class Exchange:
    """Takes each message from a client and gives it back, however often it is cancelled."""

    def __init__(self, request: StreamSocket) -> None:
        self.request = request
        self.taken = bytearray()
        self.acknowledged: set[int] = set()

    async def handle(self) -> None:
        writer = SocketWriter(self.request)
        for n, message in enumerate(MESSAGES):
            goal = len(self.taken) + len(message)
            while len(self.taken) < goal:
                with contextlib.suppress(asyncio.CancelledError):
                    self.taken += await self.request.recv(min(50_000, goal - len(self.taken)))
            with contextlib.suppress(asyncio.CancelledError):
                if n % 2:
                    await self.request.sendall(message)
                else:
                    await writer.write(message)
                self.acknowledged.add(n)
        with contextlib.suppress(asyncio.CancelledError):
            await writer.flush()


def converse(sock: socket.socket, received: bytearray) -> None:
    """The client, in threads: sends all, in pieces, and reads until the other side closes."""

    def read() -> None:
        while block := sock.recv(10_000):
            received.extend(block)

    reader = threading.Thread(target=read)
    reader.start()
    for message in MESSAGES:
        half = len(message) // 2
        sock.sendall(message[:half])
        sock.sendall(message[half:])
    reader.join()
    sock.close()


@pytest.mark.parametrize("when", ["at once", "soon", "late"])
async def test_a_handler_cancelled_anywhere_loses_no_byte_and_leaves_nothing(when: str) -> None:
    loop = asyncio.get_running_loop()
    for n in range(1, 200):
        ours, theirs = socket.socketpair()
        for sock in ours, theirs:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        lingering = LingeringSockets(loop, 10.0)
        request = StreamSocket(ours, lingering)
        exchange = Exchange(request)
        received = bytearray()
        client = loop.run_in_executor(None, converse, theirs, received)

        async def serve(cancelling: CancelAt) -> None:
            await cancelling

        cancelling = CancelAt(exchange.handle(), n, when)
        task = loop.create_task(serve(cancelling))
        await asyncio.wait([task])
        if not task.cancelled():  # it was, when the cancel came too late for any suspension
            task.result()
        assert exchange.taken == b"".join(MESSAGES)
        request.close()
        await lingering.wait_closed()
        assert request.fileno() == -1
        await client

        position = 0
        for number, message in enumerate(MESSAGES):
            count = received.count(message[:1])
            assert received[position : position + count] == message[:1] * count
            if number in exchange.acknowledged:
                assert count == len(message)
            position += count
        assert position == len(received)
        if not cancelling.reached:
            assert exchange.acknowledged == set(range(len(MESSAGES)))
            break
    else:
        pytest.fail("the exchange never ended before its n-th suspension")
    assert n > 5

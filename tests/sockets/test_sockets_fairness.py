"""Nobody is starved: a busy connection gives way to the loop after a budget (decision 0003).

Counted in turns of the loop and calls in one turn, not in time.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer
from aiosocketserver.sockets.files import SocketReader, SocketWriter
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import ask, connected, fill

# More calls than one connection may make in a turn, and much less than what tests make.
MANY_CALLS = 1000


class Turns:
    """Counts the calls that handlers make in each turn of the loop."""

    def __init__(self) -> None:
        self.calls = 0
        self.most_calls = 0

    def call(self) -> None:
        self.calls += 1
        self.most_calls = max(self.most_calls, self.calls)

    async def count(self) -> None:
        while True:
            self.calls = 0
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def counted_turns() -> AsyncGenerator[Turns]:
    turns = Turns()
    counting = asyncio.create_task(turns.count())
    try:
        yield turns
    finally:
        counting.cancel()
        await asyncio.wait([counting])


async def receive_blocks(request: StreamSocket, turns: Turns) -> None:
    while await request.recv(16):
        turns.call()


async def receive_into(request: StreamSocket, turns: Turns) -> None:
    buffer = bytearray(16)
    while await request.recv_into(buffer):
        turns.call()


def reader_of(request: StreamSocket) -> SocketReader:
    return SocketReader(request, segment_size=65536, max_line_size=65536, max_block_size=65536)


async def read_lines(request: StreamSocket, turns: Turns) -> None:
    async for _ in reader_of(request):
        turns.call()


async def read_blocks(request: StreamSocket, turns: Turns) -> None:
    reader = reader_of(request)
    while await reader.read(16):
        turns.call()


async def look_without_waiting(request: StreamSocket, turns: Turns) -> None:
    request.setblocking(False)
    while True:
        turns.call()
        try:
            if not await request.recv(16):
                return
        except BlockingIOError:
            continue


Handle = Callable[[StreamSocket, Turns], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    "handle", [receive_blocks, receive_into, read_lines, read_blocks, look_without_waiting]
)
async def test_a_handler_whose_input_never_ends_gives_way(handle: Handle) -> None:
    async with connected() as (request, peer), counted_turns() as turns:
        for _ in range(15):
            peer.sock.send(b"fifteen chars..\n" * 512)
        handling = asyncio.create_task(handle(request, turns))
        peer.finish()
        await handling
        assert turns.most_calls < MANY_CALLS


async def test_a_handler_that_looks_for_input_without_waiting_starves_nobody() -> None:
    async with connected() as (request, peer), counted_turns() as turns:
        looking = asyncio.create_task(look_without_waiting(request, turns))
        for _ in range(10):
            await asyncio.sleep(0)
        peer.finish()
        await looking
        assert turns.most_calls < MANY_CALLS


async def send(request: StreamSocket) -> None:
    await request.send(b"x")


async def sendall(request: StreamSocket) -> None:
    await request.sendall(b"x")


async def sendmsg(request: StreamSocket) -> None:
    await request.sendmsg([b"x"])


async def write(request: StreamSocket) -> None:
    await SocketWriter(request).write(b"x")


async def write_and_flush(request: StreamSocket) -> None:
    await SocketWriter(request).write(b"x")
    await SocketWriter(request).flush()


async def try_to_send(request: StreamSocket) -> None:
    request.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        await request.sendall(b"x")


@pytest.mark.parametrize("call", [send, sendall, sendmsg, write, write_and_flush, try_to_send])
async def test_a_handler_that_sends_to_a_fast_reader_gives_way(
    call: Callable[[StreamSocket], Coroutine[Any, Any, None]],
) -> None:
    ours, theirs = socket.socketpair()

    def read() -> None:
        while theirs.recv(1_000_000):
            pass

    async with connected((ours, theirs)) as (request, _), counted_turns() as turns:
        theirs.setblocking(True)
        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(5 * MANY_CALLS):
            turns.call()
            await call(request)
        assert turns.most_calls < MANY_CALLS
        request.settimeout(None)
        request.shutdown(socket.SHUT_WR)
        await asyncio.to_thread(reader.join)


async def test_a_handler_that_flushes_without_waiting_gives_way() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    fill(ours)
    async with connected((ours, theirs)) as (request, _), counted_turns() as turns:
        request.setblocking(False)
        writer = SocketWriter(request)
        await writer.write(b"x")
        for _ in range(5 * MANY_CALLS):
            turns.call()
            with contextlib.suppress(BlockingIOError):
                await writer.flush()
        assert turns.most_calls < MANY_CALLS
        request._abort()


async def test_large_blocks_count_by_their_bytes() -> None:
    async with connected() as (request, peer), counted_turns() as turns:
        received = 0

        async def take() -> None:
            nonlocal received
            while received < 8_000_000:
                received += len(await peer.receive(8_000_000))

        taking = asyncio.create_task(take())
        for _ in range(80):
            turns.call()
            await request.sendall(bytes(100_000))
        await taking
        assert turns.most_calls < 10


async def test_clients_that_blast_starve_neither_a_timer_nor_another_client() -> None:
    blasting = asyncio.Event()

    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            kind = await self.request.recv(1)
            if kind == b"?":
                await self.wfile.write(b"answer to " + await self.rfile.readline())
                return
            await blasting.wait()
            receive: Handle = receive_blocks if kind == b"b" else read_lines
            await receive(self.request, turns)

    stop = threading.Event()
    started = threading.Semaphore(0)

    def blast(address: tuple[str, int], kind: bytes) -> None:
        with socket.create_connection(address) as client:
            client.sendall(kind)
            data = b"fifteen chars..\n" * 4096
            sent = 0
            while not stop.is_set():
                sent += client.send(data)
                if sent >= len(data) * 2:
                    started.release()

    async with counted_turns() as turns, TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        threads = [
            threading.Thread(target=blast, args=(server.server_address, kind))
            for kind in (b"b", b"l")
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            await asyncio.to_thread(started.acquire)
        blasting.set()
        for n in range(20):
            assert await ask(server.server_address, b"?%d\n" % n) == b"answer to %d\n" % n
            await asyncio.sleep(0.001)
        stop.set()
        for thread in threads:
            await asyncio.to_thread(thread.join)
    assert 0 < turns.most_calls < 2 * MANY_CALLS

"""`wfile`: when joined writes leave, and what is copied."""

import array
import asyncio
import socket
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer
from aiosocketserver.sockets.files import SocketReader, SocketWriter
from aiosocketserver.sockets.plain_socket import is_error_of
from tests.support import arrived, ask, client_of, connected, small_pair, until

# So many bytes may be pending before a write waits.
WRITE_LIMIT = 64 * 1024


# When writes leave


async def test_writes_stay_together_until_the_turn_ends() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"one ")
        await wfile.write(b"two")
        assert arrived(peer) == b""
        assert await peer.receive(7) == b"one two"


async def test_writes_leave_before_a_wait_for_input_begins() -> None:
    async with connected() as (connection, peer):
        rfile = SocketReader(connection, segment_size=10, max_line_size=10, max_block_size=10)
        wfile = SocketWriter(connection)
        await wfile.write(b"question\n")
        reading = rfile.readline()
        # The first step of the coroutine, without a turn of the loop.
        reading.send(None)
        assert arrived(peer) == b"question\n"
        reading.close()


async def test_writes_leave_when_64_kib_are_pending() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"x" * (WRITE_LIMIT - 1))
        assert arrived(peer) == b""
        writing = wfile.write(b"y")
        with pytest.raises(StopIteration):
            writing.send(None)
        assert arrived(peer) == b"x" * (WRITE_LIMIT - 1) + b"y"


async def test_flush_returns_when_the_kernel_has_everything() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"now")
        flushing = wfile.flush()
        with pytest.raises(StopIteration):
            flushing.send(None)
        assert arrived(peer) == b"now"


class WaitsForSomethingElse(StreamRequestHandler):
    """Writes and then waits for what is not input of its connection."""

    proceed: asyncio.Event

    async def handle(self) -> None:
        await self.wfile.write(b"first\n")
        await self.proceed.wait()
        # From here on a reader callback runs this handler.
        line = await self.rfile.readline()
        await self.wfile.write(b"second " + line)
        self.proceed.clear()
        await self.proceed.wait()
        await self.connection.sendall(b"third\n")
        await self.wfile.write(b"fourth\n")
        self.proceed.clear()
        await self.proceed.wait()


async def test_writes_leave_while_the_handler_waits_for_something_else() -> None:
    WaitsForSomethingElse.proceed = asyncio.Event()
    async with TCPServer(("127.0.0.1", 0), WaitsForSomethingElse) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"first\n"
            WaitsForSomethingElse.proceed.set()
            await asyncio.sleep(0)
            await client.send(b"line\n")
            assert await client.receive(12) == b"second line\n"
            WaitsForSomethingElse.proceed.set()
            assert await client.receive(13) == b"third\nfourth\n"
            WaitsForSomethingElse.proceed.set()
            assert await client.receive_all() == b""


async def test_write_after_a_send_that_had_to_wait_leaves_by_itself() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        never = asyncio.Event()

        async def handle() -> None:
            await connection.sendall(b"x" * 50_000)
            # The writer callback runs this task.
            await wfile.write(b"end")
            await never.wait()

        task = asyncio.create_task(handle())
        assert await peer.receive(50_003) == b"x" * 50_000 + b"end"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("overrides_finish", [False, True])
async def test_writes_leave_at_the_end_also_of_a_handler_that_fails(
    fails: bool, overrides_finish: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"x" * 60_000)
            if fails:
                raise ZeroDivisionError

    class DoesNotFlush(Handler):
        async def finish(self) -> None:
            pass

    handler = DoesNotFlush if overrides_finish else Handler
    async with TCPServer(("127.0.0.1", 0), handler) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await server.start_serving()
        assert await ask(server.server_address) == b"x" * 60_000
    assert server.statistics.handlers_failed == fails
    assert len(caplog.records) == fails


class CountingSocket(socket.socket):
    """Counts how often it sends."""

    sent = 0

    def send(self, *args: Any) -> int:
        self.sent += 1
        return super().send(*args)


class CountingServer(TCPServer):
    accepted: CountingSocket

    def get_request(self) -> tuple[socket.socket, Any]:
        sock, address = super().get_request()
        self.accepted = CountingSocket(fileno=sock.detach())
        return self.accepted, address


async def test_pipelined_lines_are_answered_by_one_send() -> None:
    class Echo(StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(line)

    lines = b"".join(b"line %d\n" % number for number in range(16))
    async with CountingServer(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            for _ in range(10):
                await client.send(lines)
                assert await client.receive(len(lines)) == lines
            assert server.accepted.sent == 10
            client.finish()
            assert await client.receive_all() == b""
    assert server.accepted.sent == 10


# A flush that the kernel does not take at once


async def test_partial_flush_goes_on_with_nobody_waiting() -> None:
    async with connected(small_pair()) as (connection, peer):
        data = bytes(range(256)) * 240
        await SocketWriter(connection).write(data)
        assert await peer.receive(len(data)) == data
        # And lets the loop go of the socket then.
        await until(lambda: not connection._writer_registered)


async def test_write_at_the_limit_waits_until_the_kernel_has_it() -> None:
    async with connected(small_pair()) as (connection, peer):
        writing = asyncio.create_task(SocketWriter(connection).write(b"x" * WRITE_LIMIT))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not writing.done()
        received = await peer.receive(WRITE_LIMIT)
        assert await writing == WRITE_LIMIT == len(received)


async def test_two_flushes_at_once_return_each_when_its_bytes_are_gone() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"a" * 30_000)
        first = asyncio.create_task(wfile.flush())
        await asyncio.sleep(0)
        await wfile.write(b"b" * 30_000)
        second = asyncio.create_task(wfile.flush())
        await asyncio.sleep(0)
        assert not first.done()
        received = await peer.receive(30_000)
        await first
        # The kernel has not room for all of the rest.
        assert not second.done()
        received += await peer.receive(30_000)
        await second
    assert received == b"a" * 30_000 + b"b" * 30_000


@pytest.mark.parametrize("size", [100, 100_000])
async def test_flush_and_write_of_a_socket_that_may_not_wait(size: int) -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        connection.settimeout(0)
        if size < WRITE_LIMIT:
            await wfile.write(b"x" * size)
            await wfile.flush()
        else:
            with pytest.raises(BlockingIOError) as caught:
                await wfile.write(b"x" * size)
            assert is_error_of(caught.value, connection)
            with pytest.raises(BlockingIOError):
                await wfile.flush()
        assert await peer.receive(size) == b"x" * size


async def test_others_run_while_a_task_writes_and_writes() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        turns = 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            loop.call_soon(turn)

        loop = asyncio.get_running_loop()
        loop.call_soon(turn)
        for _ in range(10_000):
            await wfile.write(b"x")
        assert turns > 10
        assert await peer.receive(10_000) == b"x" * 10_000


# What may be written


@pytest.mark.parametrize("size", [4, 40_000])
async def test_what_is_not_bytes_is_copied(size: int) -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        first = bytearray(b"a" * size)
        second = array.array("i", [0x62626262] * (size // 4))
        writing = [
            asyncio.create_task(wfile.write(first)),
            asyncio.create_task(wfile.write(memoryview(second))),
        ]
        await asyncio.sleep(0)
        # While the bytes have not left, or wait in the middle.
        first[:] = b"?" * size
        second[:] = array.array("i", [0] * (size // 4))
        assert await peer.receive(2 * size) == b"a" * size + b"b" * size
        assert await asyncio.gather(*writing) == [size, size]


async def test_size_is_that_of_the_call_also_when_the_buffer_shrinks_meanwhile() -> None:
    async with connected(small_pair()) as (connection, peer):
        data = bytearray(WRITE_LIMIT)
        writing = asyncio.create_task(SocketWriter(connection).write(data))
        await asyncio.sleep(0)
        data.clear()
        assert len(await peer.receive(WRITE_LIMIT)) == WRITE_LIMIT
        assert await writing == WRITE_LIMIT


class BytesOfAKind(bytes):
    pass


async def test_any_buffer_may_be_written() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        assert await wfile.write(b"") == 0
        assert await wfile.write(b"bytes ") == 6
        assert await wfile.write(BytesOfAKind(b"kind ")) == 5
        assert await wfile.write(memoryview(b"e-v-e-r-y- ")[::2]) == 6
        assert await wfile.write(memoryview(b"12345678").cast("B", (2, 4))) == 8
        await wfile.writelines([b" a", bytearray(b"b"), memoryview(b"c")])
        await wfile.writelines([])
        expected = b"bytes kind every 12345678 abc"
        assert await peer.receive(len(expected)) == expected
        assert wfile.fileno() == connection.fileno()


async def test_what_is_no_buffer_is_refused_and_sends_nothing() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        wrong: Any = "text"
        with pytest.raises(TypeError, match="bytes-like object is required, not 'str'"):
            await wfile.write(wrong)
        with pytest.raises(TypeError):
            await wfile.writelines([b"good", wrong])
        await wfile.write(b"end")
        assert await peer.receive(3) == b"end"
        assert arrived(peer) == b""

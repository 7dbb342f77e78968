"""Joined writes belong to the socket: whatever else is sent on it, order is call order."""

import asyncio
import errno
import io
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import connected, small_pair

# So many bytes may be pending before a write waits.
WRITE_LIMIT = 64 * 1024
PENDING = b"p" * 60_000


async def turns(count: int = 5) -> None:
    """Let everything that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def _send(connection: StreamSocket, _: Path) -> None:
    assert await connection.send(b"other") == 5


async def _sendall(connection: StreamSocket, _: Path) -> None:
    await connection.sendall(b"other")


async def _sendmsg(connection: StreamSocket, _: Path) -> None:
    assert await connection.sendmsg([b"ot", b"her"]) == 5


async def _sendfile(connection: StreamSocket, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(b"other")
    with path.open("rb") as file:
        assert await connection.sendfile(file) == 5


async def _sendfile_of_no_descriptor(connection: StreamSocket, _: Path) -> None:
    assert await connection.sendfile(io.BytesIO(b"other")) == 5


SENDERS: list[Callable[[StreamSocket, Path], Awaitable[None]]] = [
    _send,
    _sendall,
    _sendmsg,
    _sendfile,
    _sendfile_of_no_descriptor,
]


@pytest.mark.parametrize("send", SENDERS)
@pytest.mark.parametrize("pending", [b"pending", PENDING])
async def test_pending_writes_leave_before_and_later_ones_after(
    send: Callable[[StreamSocket, Path], Awaitable[None]], pending: bytes, tmp_path: Path
) -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)

        async def handle() -> None:
            await wfile.write(pending)
            await send(connection, tmp_path)
            await wfile.write(b"later")

        task = asyncio.create_task(handle())
        expected = pending + b"otherlater"
        assert await peer.receive(len(expected)) == expected
        await task


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
@pytest.mark.parametrize("pending", [b"pending", PENDING])
async def test_pending_writes_leave_before_a_shutdown(how: int, pending: bytes) -> None:
    async with connected(small_pair()) as (connection, peer):
        await SocketWriter(connection).write(pending)
        connection.shutdown(how)
        assert await peer.receive_all() == pending


async def test_shutdown_during_sendall_lets_it_and_what_waits_behind_it_leave() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        sending = asyncio.create_task(connection.sendall(b"a" * 50_000))
        await turns()
        await wfile.write(b"behind")
        connection.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            await wfile.write(b"too late")
        assert await peer.receive_all() == b"a" * 50_000 + b"behind"
        await sending


async def test_shutdown_during_sendall_without_anything_behind_it() -> None:
    async with connected(small_pair()) as (connection, peer):
        sending = asyncio.create_task(connection.sendall(b"a" * 50_000))
        await turns()
        connection.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == b"a" * 50_000
        await sending


async def test_other_kinds_of_shutdown_leave_the_sending_side_open() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        connection.shutdown(socket.SHUT_RD)
        with pytest.raises(OSError, match="Invalid argument"):
            connection.shutdown(5)
        await wfile.write(b"open")
        assert await peer.receive(4) == b"open"


class FailsToShutDown(socket.socket):
    def shutdown(self, how: int) -> None:
        raise OSError(errno.ENOTCONN, "not connected")


async def test_error_of_a_shutdown_that_came_later_is_raised_by_the_next_flush() -> None:
    ours, theirs = small_pair()
    async with connected((FailsToShutDown(fileno=ours.detach()), theirs)) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(PENDING)
        connection.shutdown(socket.SHUT_WR)
        assert await peer.receive(len(PENDING)) == PENDING
        with pytest.raises(OSError, match="not connected"):
            await wfile.flush()


async def test_shutdown_of_a_connection_whose_pending_writes_fail() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(PENDING)
        connection.shutdown(socket.SHUT_WR)
        peer.sock.close()
        with pytest.raises(BrokenPipeError):
            await wfile.flush()


@pytest.mark.parametrize("pending", [b"pending", PENDING])
async def test_pending_writes_leave_before_a_close(pending: bytes) -> None:
    async with connected(small_pair()) as (connection, peer):
        await SocketWriter(connection).write(pending)
        connection.close()
        assert connection.fileno() == -1
        assert await peer.receive_all() == pending


async def test_close_fails_what_waits_and_still_sends_what_was_written() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        writing = asyncio.create_task(wfile.write(b"w" * WRITE_LIMIT))
        flushing = asyncio.create_task(wfile.flush())
        await turns()
        connection.close()
        for task in (writing, flushing):
            with pytest.raises(OSError, match="closed while a task was waiting"):
                await task
        assert await peer.receive_all() == b"w" * WRITE_LIMIT


async def test_close_during_sendall_sends_nothing_behind_the_torn_message() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"before")
        sending = asyncio.create_task(connection.sendall(b"a" * 50_000))
        await turns()
        await wfile.write(b"behind")
        connection.close()
        with pytest.raises(OSError, match="closed while a task was waiting"):
            await sending
        received = await peer.receive_all()
        assert received.startswith(b"beforea")
        assert not received.strip(b"beforea"), "nothing of `behind` but its letters of `before`"
        assert b"i" not in received


async def test_detach_sends_what_is_pending_first() -> None:
    async with connected() as (connection, peer):
        await SocketWriter(connection).write(b"pending")
        with socket.socket(fileno=connection.detach()) as detached:
            detached.send(b" detached")
            assert await peer.receive(16) == b"pending detached"


async def test_detach_tells_what_the_kernel_has_not_taken() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(PENDING)
        with pytest.raises(BlockingIOError, match=r"bytes are written and not sent: await wfile"):
            connection.detach()
        flushing = asyncio.create_task(wfile.flush())
        assert await peer.receive(len(PENDING)) == PENDING
        await flushing
        socket.socket(fileno=connection.detach()).close()


# Many tasks


async def test_writes_of_many_tasks_are_whole_and_in_call_order() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        messages = {
            name: [f"<{name}.{number}>".encode() * (name * name * 20 + 1) for number in range(20)]
            for name in range(20)
        }
        called: list[bytes] = []

        async def member(name: int) -> None:
            for message in messages[name]:
                called.append(message)
                await wfile.write(message)

        async with asyncio.TaskGroup() as members:
            for name in messages:
                members.create_task(member(name))
            received = await peer.receive(sum(len(b"".join(own)) for own in messages.values()))
        assert received == b"".join(called)


async def test_what_others_write_during_a_sendall_comes_after_it() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"<before>")
        sending = asyncio.create_task(connection.sendall(b"a" * 100_000))
        await turns()
        await wfile.write(b"<small>")
        large = asyncio.create_task(wfile.write(b"b" * WRITE_LIMIT))
        flushing = asyncio.create_task(wfile.flush())
        await turns()
        with pytest.raises(RuntimeError, match="another task is sending on this socket"):
            await connection.sendall(b"second")
        expected = b"<before>" + b"a" * 100_000 + b"<small>" + b"b" * WRITE_LIMIT
        assert await peer.receive(50_000) == expected[:50_000]
        assert not sending.done()
        assert not large.done()
        assert not flushing.done()
        assert await peer.receive(len(expected) - 50_000) == expected[50_000:]
        await asyncio.gather(sending, large, flushing)


async def test_nothing_comes_between_the_blocks_of_a_file() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        content = b"f" * 300_000
        sending = asyncio.create_task(connection.sendfile(io.BytesIO(content)))
        await turns()
        await wfile.write(b"<behind>")
        received = b""
        while not sending.done():
            received += await peer.receive(1000)
            if len(received) < 290_000:
                with pytest.raises(RuntimeError, match="another task is sending"):
                    await connection.sendall(b"second")
        assert await sending == 300_000
        received += await peer.receive(300_008 - len(received))
        assert received == content + b"<behind>"


# What is cancelled or times out


@pytest.mark.parametrize("call", ["write", "flush"])
async def test_cancelled_write_or_flush_leaves_the_unsent_rest_to_be_sent(call: str) -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        data = b"".join(b"%07d," % number for number in range(WRITE_LIMIT // 8))
        if call == "write":
            task = asyncio.create_task(_ignore(wfile.write(data)))
        else:
            await wfile.write(data[:-1])
            await wfile.write(b"")
            task = asyncio.create_task(_ignore(wfile.flush()))
            data = data[:-1]
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        received = await peer.receive(20_000)
        await wfile.write(b"after")
        received += await peer.receive(len(data) - 20_000 + 5)
        assert received == data + b"after"


async def _ignore(awaitable: Awaitable[object]) -> None:
    await awaitable


async def test_timed_out_write_and_flush_leave_the_unsent_rest_to_be_sent() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        connection.settimeout(0.01)
        with pytest.raises(TimeoutError, match="timed out"):
            await wfile.write(b"w" * WRITE_LIMIT)
        with pytest.raises(TimeoutError, match="timed out"):
            await wfile.flush()
        await wfile.write(b"next")
        expected = b"w" * WRITE_LIMIT + b"next"
        assert await peer.receive(len(expected)) == expected


@pytest.mark.parametrize("behind", [b"", b"<behind>"])
async def test_cancelled_sendall_has_sent_a_prefix_and_later_writes_follow(behind: bytes) -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        data = b"".join(b"%07d," % number for number in range(10_000))
        sending = asyncio.create_task(connection.sendall(data))
        await turns()
        await wfile.write(behind)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await wfile.write(b"<after>")
        connection.shutdown(socket.SHUT_WR)
        received = await peer.receive_all()
        assert received.endswith(behind + b"<after>")
        prefix = received.removesuffix(behind + b"<after>")
        assert 0 < len(prefix) < len(data)
        assert data.startswith(prefix)


async def test_cancelled_send_has_sent_nothing() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(PENDING)
        sending = asyncio.create_task(_ignore(connection.send(b"cancelled")))
        await turns()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await wfile.write(b"after")
        connection.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == PENDING + b"after"


async def test_flush_cancelled_when_its_error_has_come_loses_neither() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        flushing = asyncio.create_task(wfile.write(b"w" * WRITE_LIMIT))
        await turns()
        peer.sock.close()
        # The writer callback would do this, and the task is cancelled in the same turn.
        connection._send_pending()
        flushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flushing
        with pytest.raises(BrokenPipeError):
            await wfile.flush()

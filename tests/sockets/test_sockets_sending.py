"""`send`, `sendall`, `sendmsg` of the socket that a stream handler holds."""

import array
import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.plain_socket import is_error_of
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import connected, fill, tcp_pair, until

# More than a connection holds in its kernel buffers.
LARGE = 4_000_000


def full_pair() -> tuple[socket.socket, socket.socket, int]:
    """A connection whose sending side would block, and how many zeros are in it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs, fill(ours)


async def test_sendall_sends_all() -> None:
    async with connected() as (request, peer):
        data = os.urandom(LARGE)
        sent = asyncio.create_task(request.sendall(data))
        assert await peer.receive(LARGE) == data
        await sent


async def test_sendall_returns_when_the_kernel_has_it_all() -> None:
    ours, theirs, filled = full_pair()
    async with connected((ours, theirs)) as (request, peer):
        sent = asyncio.create_task(request.sendall(b"x"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not sent.done()
        await peer.receive(filled)
        await sent
        assert await peer.receive(1) == b"x"


@pytest.mark.parametrize("kind", ["B", "H", "I", "d"])
async def test_a_partial_send_of_a_view_that_is_not_bytes_goes_on_where_it_stopped(
    kind: str,
) -> None:
    numbers = array.array(kind, [n % 251 for n in range(LARGE // array.array(kind).itemsize)])
    async with connected() as (request, peer):
        sent = asyncio.create_task(request.sendall(memoryview(numbers)))
        assert await peer.receive(LARGE) == numbers.tobytes()
        await sent


async def test_send_takes_what_the_kernel_takes() -> None:
    ours, theirs, filled = full_pair()
    async with connected((ours, theirs)) as (request, peer):
        data = os.urandom(LARGE)
        sending = asyncio.create_task(request.send(data))
        await asyncio.sleep(0)
        assert not sending.done()
        await peer.receive(filled)
        sent = await sending
        assert 0 < sent < LARGE
        assert await peer.receive(sent) == data[:sent]


async def test_send_of_nothing_sends_nothing() -> None:
    async with connected() as (request, peer):
        assert await request.send(b"") == 0
        await request.sendall(b"")
        assert await request.sendmsg([]) == 0
        await request.sendall(b"x")
        assert await peer.receive(1) == b"x"


async def test_sendmsg_joins_buffers() -> None:
    async with connected() as (request, peer):
        assert await request.sendmsg([b"one ", bytearray(b"two "), memoryview(b"three")]) == 13
        assert await peer.receive(13) == b"one two three"


async def test_sendmsg_waits_and_takes_any_iterable() -> None:
    ours, theirs, filled = full_pair()
    async with connected((ours, theirs)) as (request, peer):
        sending = asyncio.create_task(request.sendmsg(iter([b"a", b"b"]), iter([])))
        await asyncio.sleep(0)
        await peer.receive(filled)
        assert await sending == 2
        assert await peer.receive(2) == b"ab"


async def test_sendmsg_passes_a_descriptor() -> None:
    async with connected() as (request, peer):
        end, other_end = os.pipe()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [other_end]))]
        assert await request.sendmsg([b"!"], rights) == 1
        data, descriptors, _, _ = socket.recv_fds(peer.sock, 1, 1)
        assert data == b"!"
        os.close(other_end)
        os.write(descriptors[0], b"through")
        os.close(descriptors[0])
        assert os.read(end, 100) == b"through"
        os.close(end)


async def test_a_second_sender_is_told() -> None:
    ours, theirs, filled = full_pair()
    async with connected((ours, theirs)) as (request, peer):
        first = asyncio.create_task(request.sendall(b"first"))
        await asyncio.sleep(0)
        with open(__file__, "rb") as file:
            for second in (
                request.sendall(b"x"),
                request.send(b"x"),
                request.sendmsg([b"x"]),
                request.sendfile(file),
            ):
                with pytest.raises(RuntimeError, match="another task is sending"):
                    await second
            assert file.tell() == 0
        await peer.receive(filled)
        await first
        await request.sendall(b", last")
        request.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == b"first, last"


# --- time-outs ---

Send = Callable[[StreamSocket], Awaitable[object]]


async def flush(request: StreamSocket) -> None:
    writer = SocketWriter(request)
    await writer.write(b"x")
    await writer.flush()


async def sendfile(request: StreamSocket) -> None:
    with open(__file__, "rb") as file:
        await request.sendfile(file)


SENDS: dict[str, Send] = {
    "send": lambda request: request.send(b"x"),
    "sendall": lambda request: request.sendall(b"x"),
    "sendmsg": lambda request: request.sendmsg([b"x"]),
    "sendfile": sendfile,
    "flush": flush,
}
each_send = pytest.mark.parametrize("send", SENDS.values(), ids=SENDS)


@each_send
async def test_a_wait_to_send_ends_with_a_time_out(send: Send) -> None:
    ours, theirs, _ = full_pair()
    async with connected((ours, theirs)) as (request, _peer):
        request.settimeout(0.01)
        for _ in range(2):
            with pytest.raises(TimeoutError, match="timed out") as caught:
                await send(request)
            assert is_error_of(caught.value, request)
        request._abort()


@each_send
async def test_a_non_blocking_send_never_waits(send: Send) -> None:
    ours, theirs, _ = full_pair()
    async with connected((ours, theirs)) as (request, _peer):
        request.setblocking(False)
        for _ in range(2):
            with pytest.raises(BlockingIOError) as caught:
                await send(request)
            assert caught.value.errno == errno.EAGAIN
            assert is_error_of(caught.value, request)
        request._abort()


async def test_the_time_out_is_for_the_whole_of_sendall() -> None:
    """However often the peer takes a little, as in socket.sendall."""
    ours, theirs = socket.socketpair()
    async with connected((ours, theirs)) as (request, peer):
        request.settimeout(0.05)
        sent = asyncio.create_task(request.sendall(bytes(400_000_000)))
        while not sent.done():
            with contextlib.suppress(BlockingIOError):
                peer.sock.recv(256 * 1024)
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await sent


async def test_settimeout_leaves_the_send_under_way_its_time_out() -> None:
    ours, theirs, _ = full_pair()
    async with connected((ours, theirs)) as (request, _peer):
        request.settimeout(0.02)
        sent = asyncio.create_task(request.sendall(b"x"))
        await asyncio.sleep(0)
        request.settimeout(None)
        with pytest.raises(TimeoutError):
            await sent


async def test_a_time_out_that_was_taken_back_does_not_strike() -> None:
    ours, theirs, filled = full_pair()
    async with connected((ours, theirs)) as (request, peer):
        request.settimeout(0.2)
        sent = asyncio.create_task(request.sendall(b"x"))
        await asyncio.sleep(0)
        await peer.receive(filled)
        await sent
        filled = 1 + fill(ours)
        request.settimeout(None)
        sent = asyncio.create_task(request.sendall(b"y"))
        await asyncio.sleep(0.3)
        assert not sent.done()
        await peer.receive(filled)
        await sent


# --- errors ---


@each_send
async def test_a_peer_that_has_closed_is_a_broken_pipe_of_the_connection(send: Send) -> None:
    async with connected() as (request, peer):
        peer.sock.close()
        for _ in range(2):
            with pytest.raises(BrokenPipeError) as caught:
                await send(request)
            assert is_error_of(caught.value, request)


async def test_a_reset_under_a_waiting_sendall_is_an_error_of_the_connection() -> None:
    async with connected(tcp_pair()) as (request, peer):
        sent = asyncio.create_task(request.sendall(bytes(50_000_000)))
        await until(lambda: request._writer_registered)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()
        with pytest.raises((ConnectionResetError, BrokenPipeError)) as caught:
            await sent
        assert is_error_of(caught.value, request)


async def test_a_reset_under_pending_bytes_is_told_to_who_waits_and_to_who_writes_next() -> None:
    async with connected(tcp_pair()) as (request, peer):
        writer = SocketWriter(request)
        written = asyncio.create_task(writer.write(bytes(50_000_000)))
        await until(lambda: request._writer_registered)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sock.close()
        for failing in (written, writer.write(b"x"), writer.flush(), request.sendall(b"x")):
            with pytest.raises((ConnectionResetError, BrokenPipeError)) as caught:
                await failing
            assert is_error_of(caught.value, request)


# --- written bytes leave before ---


@each_send
@pytest.mark.parametrize("blocked", [False, True], ids=["room", "no-room"])
async def test_what_was_written_leaves_before_what_is_sent(send: Send, blocked: bool) -> None:
    if blocked:
        ours, theirs, filled = full_pair()
    else:
        (ours, theirs), filled = socket.socketpair(), 0
    async with connected((ours, theirs)) as (request, peer):
        writer = SocketWriter(request)
        await writer.write(b"written ")
        await writer.write(b"before ")
        sent = asyncio.ensure_future(send(request))
        await asyncio.sleep(0)
        await peer.receive(filled)
        assert (await peer.receive(16)).startswith(b"written before ")
        await sent


async def test_what_is_written_during_a_sendall_leaves_after_it() -> None:
    async with connected() as (request, peer):
        writer = SocketWriter(request)
        await writer.write(b"before")
        sent = asyncio.create_task(request.sendall(b"x" * LARGE))
        await asyncio.sleep(0)
        await writer.write(b"after")
        flushed = asyncio.create_task(writer.flush())
        assert await peer.receive(6 + LARGE) == b"before" + b"x" * LARGE
        assert await peer.receive(5) == b"after"
        await asyncio.gather(sent, flushed)


async def test_what_is_written_leaves_when_the_handler_waits_for_input() -> None:
    async with connected() as (request, peer):
        await SocketWriter(request).write(b"question")
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        assert peer.sock.recv(100) == b"question"
        await peer.send(b"answer")
        assert await received == b"answer"

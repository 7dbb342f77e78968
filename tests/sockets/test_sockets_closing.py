"""How the socket of a stream handler ends: shutdown, close, detach, abort, and who waits in it."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest

from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.lingering import LingeringSockets
from aiosocketserver.sockets.plain_socket import is_error_of
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import connected, fill, tcp_pair, until

End = Callable[[StreamSocket], object]


def detach(request: StreamSocket) -> None:
    os.close(request.detach())


ENDS: dict[str, End] = {
    "close": StreamSocket.close,
    "detach": detach,
    "abort": StreamSocket._abort,
}
each_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)

Call = Callable[[StreamSocket], Awaitable[object]]


async def flush(request: StreamSocket) -> None:
    writer = SocketWriter(request)
    await writer.write(b"x")
    await writer.flush()


CALLS: dict[str, Call] = {
    "recv": lambda request: request.recv(1),
    "recv_into": lambda request: request.recv_into(bytearray(1)),
    "send": lambda request: request.send(b"x"),
    "sendall": lambda request: request.sendall(b"x"),
    "sendmsg": lambda request: request.sendmsg([b"x"]),
    "flush": flush,
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def full_pair() -> tuple[tuple[socket.socket, socket.socket], int]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return (ours, theirs), fill(ours)


# --- who waits when another task ends it ---


@each_call
@each_end
async def test_who_waits_in_a_socket_that_ends_is_told(call: Call, end: End) -> None:
    pair, _ = full_pair()
    async with connected(pair) as (request, _peer):
        waiting = asyncio.ensure_future(call(request))
        await asyncio.sleep(0)
        assert not waiting.done()
        if call is flush and end is detach:
            # What is pending belongs to the socket: it cannot be given away before.
            with pytest.raises(BlockingIOError):
                end(request)
            end = StreamSocket._abort
        end(request)
        with pytest.raises(OSError, match="closed") as caught:
            await waiting
        assert caught.value.errno == errno.EBADF
        assert is_error_of(caught.value, request)


@each_end
async def test_reader_and_writer_are_both_told(end: End) -> None:
    pair, _ = full_pair()
    async with connected(pair) as (request, _peer):
        receiving = asyncio.create_task(request.recv(1))
        sending = asyncio.create_task(request.sendall(b"x"))
        await asyncio.sleep(0)
        end(request)
        for task in receiving, sending:
            with pytest.raises(OSError) as caught:
                await task
            assert caught.value.errno == errno.EBADF


@each_call
@each_end
async def test_who_gave_way_when_it_ended_is_told(call: Call, end: End) -> None:
    async with connected() as (request, peer):
        request._credit = 0
        waiting = asyncio.ensure_future(call(request))
        await until(lambda: request._credit)  # it has some more when it gives way
        assert not waiting.done()
        end(request)
        if call is flush:
            await waiting  # its bytes had left
        else:
            with pytest.raises(OSError) as caught:
                await waiting
            assert caught.value.errno == errno.EBADF
            assert await peer.receive_all() == b""


async def test_nothing_is_sent_through_a_socket_that_lingers() -> None:
    """A `send` that gave way comes back when the socket was closed and still sends."""
    pair, filled = full_pair()
    async with connected(pair) as (request, peer):
        writer = SocketWriter(request)
        await writer.write(b"last words")
        request._credit = 0
        sending = asyncio.create_task(request.send(b" and more"))
        await until(lambda: request._credit)
        request.close()
        peer.sock.recv(filled)
        with pytest.raises(OSError) as caught:
            await sending
        assert caught.value.errno == errno.EBADF
        assert await peer.receive_all() == b"last words"


@each_call
async def test_a_closed_socket_raises_what_a_closed_socket_raises(call: Call) -> None:
    async with connected() as (request, _):
        request.close()
        with pytest.raises(OSError) as caught:
            await call(request)
        assert caught.value.errno == errno.EBADF
        assert is_error_of(caught.value, request)


async def test_closing_again_and_asking_afterwards_does_no_harm() -> None:
    async with connected() as (request, _):
        request.close()
        request.close()
        request._abort()
        assert request.detach() == -1
        assert request.fileno() == -1
        assert "closed" in repr(request)
        for call in request.getpeername, request.getsockname:
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError) as caught:
            request.shutdown(socket.SHUT_WR)
        assert caught.value.errno == errno.EBADF


async def test_a_descriptor_that_was_used_again_is_left_alone() -> None:
    """The time-outs and callbacks of a closed socket concern nobody who got its number."""
    async with connected() as (request, peer):
        request.settimeout(0.01)
        number = request.fileno()
        writer = SocketWriter(request)
        waiting = asyncio.create_task(request.recv(1))
        await asyncio.sleep(0)
        await writer.write(b"x")
        request._abort()
        ours, theirs = socket.socketpair()
        assert number in (ours.fileno(), theirs.fileno())
        async with connected((ours, theirs)) as (other, other_peer):
            other_waiting = asyncio.create_task(other.recv(10))
            with pytest.raises(OSError, match="closed"):
                await waiting
            await asyncio.sleep(0.03)
            await other_peer.send(b"undisturbed")
            assert await other_waiting == b"undisturbed"[:10]
        assert await peer.receive_all() == b""


# --- shutdown ---


async def test_shutdown_of_the_receiving_side_ends_a_recv() -> None:
    async with connected() as (request, _):
        received = asyncio.create_task(request.recv(1))
        await asyncio.sleep(0)
        request.shutdown(socket.SHUT_RD)
        assert await received == b""


async def test_after_a_half_close_the_other_direction_goes_on() -> None:
    async with connected() as (request, peer):
        await request.sendall(b"answer")
        request.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == b"answer"
        await peer.send(b"more")
        assert await request.recv(10) == b"more"
        with pytest.raises(BrokenPipeError) as caught:
            await request.sendall(b"x")
        assert is_error_of(caught.value, request)
        with pytest.raises(BrokenPipeError):
            await SocketWriter(request).write(b"x")


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
async def test_what_was_written_leaves_before_a_shutdown(how: int) -> None:
    pair, filled = full_pair()
    async with connected(pair) as (request, peer):
        await SocketWriter(request).write(b"last words")
        request.shutdown(how)
        assert (await peer.receive_all())[filled:] == b"last words"


async def test_a_sendall_under_way_ends_before_a_shutdown() -> None:
    async with connected() as (request, peer):
        sent = asyncio.create_task(request.sendall(b"x" * 4_000_000))
        await asyncio.sleep(0)
        request.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == b"x" * 4_000_000
        await sent


async def test_a_cancelled_sendall_lets_a_shutdown_happen() -> None:
    async with connected() as (request, peer):
        sent = asyncio.create_task(request.sendall(b"x" * 4_000_000))
        await asyncio.sleep(0)
        request.shutdown(socket.SHUT_WR)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        assert 0 < len(await peer.receive_all()) < 4_000_000


async def test_no_peer_any_more_is_an_error_of_the_connection() -> None:
    async with connected(tcp_pair()) as (request, peer):
        reset(peer.sock)
        with pytest.raises(ConnectionResetError):
            await request.recv(1)
        for call in request.getpeername, lambda: request.shutdown(socket.SHUT_WR):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENOTCONN
            assert is_error_of(caught.value, request)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# --- detach ---


async def test_a_detached_descriptor_belongs_to_the_caller() -> None:
    async with connected() as (request, peer):
        await SocketWriter(request).write(b"before ")
        with socket.socket(fileno=request.detach()) as sock:
            assert request.fileno() == -1
            sock.sendall(b"after")
            await peer.send(b"question")
            assert sock.recv(100) == b"question"
        assert await peer.receive_all() == b"before after"


async def test_a_socket_with_pending_bytes_is_not_detached() -> None:
    pair, filled = full_pair()
    async with connected(pair) as (request, peer):
        writer = SocketWriter(request)
        await writer.write(b"pending")
        with pytest.raises(BlockingIOError, match=r"7 bytes .*wfile\.flush"):
            request.detach()
        assert request.fileno() >= 0
        await peer.receive(filled)
        await writer.flush()
        os.close(request.detach())
        assert await peer.receive_all() == b"pending"


# --- what happens at a close ---


@pytest.mark.parametrize("pair", [tcp_pair, socket.socketpair])
async def test_bytes_that_are_pending_at_a_close_still_leave(
    pair: Callable[[], tuple[socket.socket, socket.socket]],
) -> None:
    async with connected(pair()) as (request, peer):
        writing = asyncio.create_task(SocketWriter(request).write(b"x" * 30_000_000))
        await until(lambda: request._writer_registered)
        request.close()
        with pytest.raises(OSError, match="closed"):
            await writing
        assert request.fileno() == -1
        assert await peer.receive_all() == b"x" * 30_000_000


async def test_an_abort_drops_what_is_pending() -> None:
    pair, filled = full_pair()
    async with connected(pair) as (request, peer):
        await SocketWriter(request).write(b"dropped")
        request._abort()
        assert len(await peer.receive_all()) == filled


async def test_so_linger_makes_a_close_immediate() -> None:
    async with connected(tcp_pair()) as (request, peer):
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await request.sendall(b"x")
        request.close()
        with pytest.raises(ConnectionResetError):
            await peer.receive_all()


async def test_so_linger_can_be_switched_off_again() -> None:
    async with connected(tcp_pair()) as (request, peer):
        for onoff in 1, 0:
            request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", onoff, 0))
        await peer.send(b"unread")
        await request.sendall(b"answer")
        request.close()
        assert await peer.receive_all() == b"answer"


async def test_a_peer_that_has_closed_is_not_waited_for() -> None:
    lingering = LingeringSockets(asyncio.get_running_loop(), 60.0)
    ours, theirs = socket.socketpair()
    request = StreamSocket(ours, lingering)
    theirs.close()
    assert await request.recv(1) == b""
    request.close()
    assert len(lingering) == 0
    assert ours.fileno() == -1


def test_a_socket_that_may_block_the_loop_is_refused() -> None:
    class Other(socket.socket):
        def recv(self, *_: object) -> bytes:
            return b""

    loop = asyncio.new_event_loop()
    with Other() as sock, pytest.raises(TypeError, match="Other"):
        StreamSocket(sock, LingeringSockets(loop, 1.0))
    loop.close()


async def test_what_does_not_wait_is_as_in_socket() -> None:
    ours, theirs = tcp_pair()
    async with connected((ours, theirs)) as (request, _):
        assert request.fileno() == ours.fileno()
        assert request.getpeername() == theirs.getsockname()
        assert request.getsockname() == theirs.getpeername()
        assert request.family == socket.AF_INET
        assert request.type == socket.SOCK_STREAM
        assert request.proto == ours.proto
        request.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert request.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        assert len(request.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 4)) == 4
        assert "StreamSocket" in repr(request)

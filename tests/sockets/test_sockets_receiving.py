"""`recv` and `recv_into` of the socket that a stream handler holds."""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from aiosocketserver.sockets.plain_socket import is_error_of
from tests.support import connected, fill, tcp_pair, until, wait_until_readable


async def test_recv_returns_what_has_arrived() -> None:
    async with connected() as (request, peer):
        await peer.send(b"hello")
        assert await request.recv(100) == b"hello"


async def test_recv_waits_until_something_arrives() -> None:
    async with connected() as (request, peer):
        received = asyncio.create_task(request.recv(100))
        await asyncio.sleep(0)
        assert not received.done()
        await peer.send(b"late")
        assert await received == b"late"


async def test_recv_takes_at_most_what_it_is_asked_for() -> None:
    async with connected() as (request, peer):
        await peer.send(b"abcdef")
        assert await request.recv(4) == b"abcd"
        assert await request.recv(4) == b"ef"


async def test_recv_tells_the_end_again_and_again() -> None:
    async with connected() as (request, peer):
        await peer.send(b"last")
        peer.finish()
        assert await request.recv(100) == b"last"
        assert [await request.recv(100) for _ in range(3)] == [b"", b"", b""]


async def test_recv_into_fills_the_buffer() -> None:
    async with connected() as (request, peer):
        buffer = bytearray(b"........")
        received = asyncio.create_task(request.recv_into(buffer))
        await asyncio.sleep(0)
        await peer.send(b"abcdefghij")
        assert await received == 8
        assert buffer == b"abcdefgh"
        assert await request.recv_into(memoryview(buffer)[2:], 1) == 1
        assert buffer == b"abidefgh"
        assert await request.recv_into(buffer) == 1
        assert buffer == b"jbidefgh"
        peer.finish()
        assert await request.recv_into(buffer) == 0


async def test_recv_into_counts_bytes_not_elements() -> None:
    async with connected() as (request, peer):
        numbers = memoryview(bytearray(8)).cast("I")
        await peer.send(struct.pack("=II", 7, 9) + b"x")
        assert await request.recv_into(numbers) == 8
        assert numbers.tolist() == [7, 9]
        assert await request.recv(10) == b"x"


async def test_asking_for_nothing_returns_nothing_at_once() -> None:
    async with connected() as (request, peer):
        assert await request.recv(0) == b""
        assert await request.recv_into(bytearray()) == 0
        await peer.send(b"x")
        assert await request.recv(10) == b"x"


async def test_peeking_leaves_the_bytes() -> None:
    async with connected() as (request, peer):
        await peer.send(b"abc")
        assert await request.recv(10, socket.MSG_PEEK) == b"abc"
        assert await request.recv(10, socket.MSG_PEEK) == b"abc"
        buffer = bytearray(2)
        assert await request.recv_into(buffer, 0, socket.MSG_PEEK) == 2
        assert await request.recv(10) == b"abc"
        peer.finish()
        assert await request.recv(10, socket.MSG_PEEK) == b""


@pytest.mark.parametrize("size", [-1, "1"])
async def test_a_wrong_size_is_the_error_of_socket(size: Any) -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises((ValueError, TypeError)) as expected:
        ours.recv(size)
    async with connected((ours, theirs)) as (request, peer):
        with pytest.raises(expected.type):
            await request.recv(size)
        await peer.send(b"x")
        assert await request.recv(1) == b"x"


async def test_a_buffer_that_is_too_small_is_the_error_of_socket() -> None:
    async with connected() as (request, peer):
        await peer.send(b"x")
        with pytest.raises(ValueError, match="small"):
            await request.recv_into(bytearray(2), 3)
        assert await request.recv(1) == b"x"


# --- two tasks ---


async def test_a_second_receiver_is_told() -> None:
    async with connected() as (request, peer):
        first = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is receiving"):
            await request.recv(10)
        with pytest.raises(RuntimeError, match="another task is receiving"):
            await request.recv_into(bytearray(10))
        await peer.send(b"mine")
        assert await first == b"mine"


async def test_one_task_receives_while_another_sends() -> None:
    async with connected() as (request, peer):
        sent = asyncio.create_task(request.sendall(b"x" * 4_000_000))
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        assert not sent.done()
        await peer.send(b"answer")
        assert await received == b"answer"
        assert not sent.done()
        assert await peer.receive(4_000_000) == b"x" * 4_000_000
        await sent


# --- time-outs ---


async def test_a_wait_ends_with_a_time_out() -> None:
    async with connected() as (request, peer):
        request.settimeout(0.01)
        with pytest.raises(TimeoutError, match="timed out") as caught:
            await request.recv(10)
        assert is_error_of(caught.value, request)
        with pytest.raises(TimeoutError):
            await request.recv_into(bytearray(10))
        await peer.send(b"later")
        assert await request.recv(10) == b"later"


async def test_what_is_there_comes_without_a_time_out() -> None:
    async with connected() as (request, peer):
        request.settimeout(0.001)
        await peer.send(b"x")
        wait_until_readable(request)
        assert await request.recv(1) == b"x"


async def test_a_shorter_time_out_counts_from_the_next_call() -> None:
    async with connected() as (request, peer):
        request.settimeout(3600)
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        await peer.send(b"x")
        assert await received == b"x"
        request.settimeout(0.01)
        with pytest.raises(TimeoutError):
            await request.recv(10)


async def test_settimeout_leaves_the_wait_under_way_its_time_out() -> None:
    async with connected() as (request, _):
        request.settimeout(0.02)
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        request.settimeout(None)
        with pytest.raises(TimeoutError):
            await received


async def test_a_time_out_that_was_taken_back_does_not_strike() -> None:
    async with connected() as (request, peer):
        request.settimeout(0.2)
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        await peer.send(b"x")
        await received
        request.settimeout(None)
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0.3)
        assert not received.done()
        await peer.send(b"y")
        assert await received == b"y"


async def test_gettimeout_and_getblocking_tell_what_was_set() -> None:
    async with connected() as (request, _):
        assert (request.gettimeout(), request.getblocking()) == (None, True)
        request.settimeout(2.5)
        assert (request.gettimeout(), request.getblocking()) == (2.5, True)
        request.setblocking(False)
        assert (request.gettimeout(), request.getblocking()) == (0, False)
        request.setblocking(True)
        assert (request.gettimeout(), request.getblocking()) == (None, True)
        with pytest.raises(ValueError, match="-1"):
            request.settimeout(-1)


async def test_a_non_blocking_recv_never_waits() -> None:
    async with connected() as (request, peer):
        request.setblocking(False)
        for _ in range(2):
            with pytest.raises(BlockingIOError) as caught:
                await request.recv(10)
            assert caught.value.errno == errno.EAGAIN
            assert is_error_of(caught.value, request)
            with pytest.raises(BlockingIOError):
                await request.recv_into(bytearray(10))
            # After a short read as well: what has come since is there to be had.
            for data in b"a", b"b":
                await peer.send(data)
                wait_until_readable(request)
                assert await request.recv(10) == data
            buffer = bytearray(10)
            for data in b"a", b"b":
                await peer.send(data)
                wait_until_readable(request)
                assert buffer[: await request.recv_into(buffer)] == data
        peer.finish()
        assert [await request.recv(10), await request.recv(10)] == [b"", b""]


async def test_switching_to_non_blocking_after_a_short_read_finds_the_input() -> None:
    async with connected() as (request, peer):
        await peer.send(b"a")
        assert await request.recv(10) == b"a"
        await peer.send(b"b")
        wait_until_readable(request)
        request.settimeout(0)
        assert await request.recv(10) == b"b"


async def test_dontwait_never_waits() -> None:
    async with connected() as (request, peer):
        for data in b"a", b"b":
            with pytest.raises(BlockingIOError) as caught:
                await request.recv(10, socket.MSG_DONTWAIT)
            assert is_error_of(caught.value, request)
            await peer.send(data)
            wait_until_readable(request)
            assert await request.recv(10, socket.MSG_DONTWAIT) == data
        with pytest.raises(BlockingIOError):
            await request.recv_into(bytearray(10), 0, socket.MSG_DONTWAIT)


# --- errors ---


def reset(sock: socket.socket) -> None:
    """Close so that the other side gets ECONNRESET."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_a_reset_is_an_error_of_the_connection() -> None:
    async with connected(tcp_pair()) as (request, peer):
        received = asyncio.create_task(request.recv(10))
        await asyncio.sleep(0)
        reset(peer.sock)
        with pytest.raises(ConnectionResetError) as caught:
            await received
        assert is_error_of(caught.value, request)
    async with connected(tcp_pair()) as (other, peer):
        assert not is_error_of(caught.value, other)
        reset(peer.sock)
        with pytest.raises(ConnectionResetError) as caught:
            await other.recv_into(bytearray(10))
        assert is_error_of(caught.value, other)


async def test_the_same_error_from_elsewhere_is_not_the_connections() -> None:
    async with connected() as (request, _):
        assert not is_error_of(ConnectionResetError(), request)
        request.settimeout(0.001)
        with pytest.raises(TimeoutError) as ours:
            await request.recv(1)
        assert is_error_of(ExceptionGroup("", [ours.value, ours.value]), request)
        assert not is_error_of(ExceptionGroup("", [ours.value, TimeoutError()]), request)
        nested = ExceptionGroup("", [ExceptionGroup("", [ours.value])])
        assert is_error_of(nested, request)


# --- the registration with the loop (decision 0003) ---


class Registrations:
    """Counts the calls of the loop's add_reader and remove_reader, and of the callbacks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.added = self.removed = self.called = 0
        loop = asyncio.get_running_loop()
        add_reader, remove_reader = loop.add_reader, loop.remove_reader

        def counting_add(descriptor: int, callback: Callable[[], object]) -> None:
            def counting_callback() -> None:
                self.called += 1
                callback()

            self.added += 1
            add_reader(descriptor, counting_callback)

        def counting_remove(descriptor: int) -> bool:
            self.removed += 1
            return remove_reader(descriptor)

        monkeypatch.setattr(loop, "add_reader", counting_add)
        monkeypatch.setattr(loop, "remove_reader", counting_remove)

    def called_more_than(self, times: int) -> bool:
        return self.called > times


async def test_the_reader_stays_registered_over_many_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    async with connected((ours, theirs)) as (request, peer):
        registrations = Registrations(monkeypatch)

        async def echo() -> None:
            while data := await request.recv(100):
                await request.sendall(data)

        echoing = asyncio.create_task(echo())
        await asyncio.sleep(0)
        # Not with loop.sock_recv, which would be counted.
        for n in range(20):
            peer.sock.send(b"ping")
            await until(partial(registrations.called_more_than, n))
            assert peer.sock.recv(100) == b"ping"
        assert (registrations.added, registrations.removed) == (1, 0)
        assert registrations.called >= 20
        echoing.cancel()
        await asyncio.wait([echoing])


async def test_input_that_nobody_waits_for_keeps_no_loop_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected() as (request, peer):
        registrations = Registrations(monkeypatch)
        received = asyncio.create_task(request.recv(1))
        await asyncio.sleep(0)
        fill(peer.sock)
        assert await received == b"\0"
        for _ in range(20):
            await asyncio.sleep(0)
        # Once for the wait, once to find that nobody waits.
        assert registrations.called == 2
        assert (registrations.added, registrations.removed) == (1, 1)
        assert await request.recv(3) == b"\0\0\0"
        assert registrations.added == 1

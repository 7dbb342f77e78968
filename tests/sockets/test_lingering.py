"""Closing a connection so that the peer gets all of the answer, bounded in time and bytes."""

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiosocketserver import BaseRequestHandler, TCPServer, UnixStreamServer
from aiosocketserver.sockets.lingering import LINGER_BYTES, LingeringSockets, linger
from aiosocketserver.sockets.send_queue import SendQueue
from tests.support import Peer, client_of, fill, tcp_pair, until

Pair = Callable[[], tuple[socket.socket, socket.socket]]


def non_blocking(make_pair: Pair) -> Pair:
    """Pairs whose first socket is as a connection's."""

    def pair() -> tuple[socket.socket, socket.socket]:
        ours, theirs = make_pair()
        ours.setblocking(False)
        return ours, theirs

    return pair


PAIRS = [non_blocking(tcp_pair), non_blocking(socket.socketpair)]
each_family = pytest.mark.parametrize("pair", PAIRS, ids=["tcp", "unix"])


def lingering_sockets(timeout: float = 60.0) -> LingeringSockets:
    return LingeringSockets(asyncio.get_running_loop(), timeout)


def queue_of(data: bytes) -> SendQueue:
    queue = SendQueue()
    queue.append(data)
    return queue


# --- through a server ---

ANSWER = os.urandom(100_000)


class AnswerAndIgnore(BaseRequestHandler):
    """Answers after the first byte, and never reads the rest."""

    async def handle(self) -> None:
        await self.request.recv(1)
        await self.request.sendall(ANSWER)
        self.request.shutdown(socket.SHUT_WR)
        self.request.close()


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("reads", ["after", "late"])
async def test_every_client_gets_the_whole_answer_however_much_it_left_unread(
    family: str, reads: str, tmp_path: Path
) -> None:
    server: TCPServer
    if family == "tcp":
        server = TCPServer(("127.0.0.1", 0), AnswerAndIgnore)
    else:
        server = UnixStreamServer(str(tmp_path / "s"), AnswerAndIgnore)

    async def one() -> bytes:
        async with client_of(server.server_address) as client:
            await client.send(bytes(100_000))
            if reads == "late":
                # More arrives when the server has closed already.
                await client.receive(1)
                await client.send(bytes(100_000))
                return ANSWER[:1] + await client.receive_all()
            return await client.receive_all()

    async with server:
        await server.start_serving()
        for _ in range(4):
            assert await asyncio.gather(*(one() for _ in range(10))) == [ANSWER] * 10


async def test_a_server_that_shuts_down_waits_for_the_answers() -> None:
    async with TCPServer(("127.0.0.1", 0), AnswerAndIgnore) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(bytes(100_000))
            received = await client.receive(10)
            ending = asyncio.create_task(server.shutdown())
            await asyncio.sleep(0)
            assert not ending.done()
            assert received + await client.receive_all() == ANSWER
        await ending


# --- the steps ---


@each_family
async def test_what_is_queued_is_sent_first(pair: Pair) -> None:
    ours, theirs = pair()
    lingering = lingering_sockets()
    data = os.urandom(30_000_000)
    lingering.close(ours, queue_of(data))
    assert len(lingering) == 1
    peer = Peer(theirs)
    assert await peer.receive_all() == data
    assert len(lingering) == 1
    theirs.close()
    await lingering.wait_closed()
    assert ours.fileno() == -1


@each_family
async def test_input_is_dropped_until_the_peer_closes(pair: Pair) -> None:
    ours, theirs = pair()
    lingering = lingering_sockets()
    peer = Peer(theirs)
    await peer.send(bytes(50_000))
    lingering.close(ours)
    await peer.send(bytes(1_000_000))
    assert await peer.receive_all() == b""
    assert len(lingering) == 1
    peer.finish()
    await lingering.wait_closed()
    assert ours.fileno() == -1
    theirs.close()


@each_family
async def test_a_peer_that_has_closed_is_not_waited_for(pair: Pair) -> None:
    ours, theirs = pair()
    lingering = lingering_sockets()
    theirs.close()
    lingering.close(ours)
    await lingering.wait_closed()
    assert ours.fileno() == -1


async def test_a_peer_that_vanishes_ends_it() -> None:
    for queue in None, queue_of(bytes(50_000_000)):
        ours, theirs = non_blocking(tcp_pair)()
        lingering = lingering_sockets()
        lingering.close(ours, queue)
        assert len(lingering) == 1
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        await lingering.wait_closed()
        assert ours.fileno() == -1


async def test_a_peer_that_vanished_before_is_no_error() -> None:
    ours, theirs = non_blocking(tcp_pair)()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    lingering = lingering_sockets()
    lingering.close(ours, queue_of(b"answer"))
    assert len(lingering) == 0
    assert ours.fileno() == -1


# --- its bounds ---


async def test_a_peer_that_never_closes_is_let_go_after_the_time_out() -> None:
    ours, theirs = non_blocking(socket.socketpair)()
    lingering = lingering_sockets(0.02)
    lingering.close(ours)
    await lingering.wait_closed()
    assert ours.fileno() == -1
    theirs.close()


async def test_a_peer_that_goes_on_sending_is_let_go_after_the_time_out() -> None:
    ours, theirs = non_blocking(socket.socketpair)()
    lingering = lingering_sockets(0.05)
    lingering.close(ours)
    theirs.setblocking(False)
    while len(lingering):
        try:
            theirs.send(b"still here")
        except OSError:
            break
        await asyncio.sleep(0.001)
    await lingering.wait_closed()
    theirs.close()


async def test_a_peer_that_never_reads_is_let_go_after_the_time_out() -> None:
    ours, theirs = non_blocking(socket.socketpair)()
    ours.setblocking(False)
    fill(ours)
    lingering = lingering_sockets(0.02)
    lingering.close(ours, queue_of(b"never read"))
    await lingering.wait_closed()
    assert ours.fileno() == -1
    theirs.close()


async def test_a_time_out_of_zero_waits_for_nobody() -> None:
    ours, theirs = non_blocking(socket.socketpair)()
    lingering = lingering_sockets(0)
    lingering.close(ours)
    await lingering.wait_closed()
    assert ours.fileno() == -1
    theirs.close()


@each_family
async def test_a_peer_that_sends_without_end_is_cut_off(pair: Pair) -> None:
    ours, theirs = pair()
    lingering = lingering_sockets()
    peer = Peer(theirs)
    lingering.close(ours)
    sent = 0

    async def send_without_end() -> None:
        nonlocal sent
        while sent < 20 * LINGER_BYTES:
            await peer.send(bytes(64 * 1024))
            sent += 64 * 1024

    with pytest.raises(ConnectionError):
        await send_without_end()
    assert sent >= LINGER_BYTES
    await lingering.wait_closed()
    theirs.close()


async def test_each_has_its_own_time_though_one_timer_does_for_all() -> None:
    lingering = lingering_sockets(0.5)
    first, its_peer = non_blocking(socket.socketpair)()
    second, other_peer = non_blocking(socket.socketpair)()
    fill(first)
    lingering.close(first, queue_of(bytes(200_000_000)))
    lingering.close(second)
    # The first one makes progress, and so it has time again; the second one has not.
    ended: list[int] = []
    while len(lingering) == 2:
        with contextlib.suppress(BlockingIOError):
            its_peer.recv(200_000, socket.MSG_DONTWAIT)
        await asyncio.sleep(0.001)
        ended = [sock.fileno() for sock in (first, second)]
    assert (ended[0] == -1, ended[1] == -1) == (False, True)
    its_peer.close()
    await lingering.wait_closed()
    assert [first.fileno(), second.fileno()] == [-1, -1]
    other_peer.close()


async def test_aborting_closes_all_now() -> None:
    pairs = [non_blocking(socket.socketpair)() for _ in range(3)]
    fill(pairs[0][0])
    lingering = lingering_sockets()
    for ours, _ in pairs:
        lingering.close(ours, queue_of(b"last words"))
    waiting = [asyncio.create_task(lingering.wait_closed()) for _ in range(2)]
    await asyncio.sleep(0)
    assert len(lingering) == 3
    waiting[0].cancel()
    lingering.abort()
    assert len(lingering) == 0
    assert [ours.fileno() for ours, _ in pairs] == [-1] * 3
    await waiting[1]
    await asyncio.wait([waiting[0]])
    for _, theirs in pairs:
        theirs.close()


async def test_a_forked_child_lets_go_of_the_descriptors_only() -> None:
    ours, theirs = non_blocking(socket.socketpair)()
    lingering = lingering_sockets()
    lingering.close(ours)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            lingering.close_in_child()
            status = 0 if ours.fileno() == -1 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    # The parent's goes on.
    assert len(lingering) == 1
    theirs.close()
    await lingering.wait_closed()


# --- without a loop ---


def test_the_blocking_way_returns_when_the_peer_has_closed() -> None:
    ours, theirs = tcp_pair()
    received: list[bytes] = []

    def read() -> None:
        with theirs:
            theirs.sendall(bytes(100_000))
            received.extend(iter(lambda: theirs.recv(100_000), b""))

    ours.sendall(ANSWER)
    reader = threading.Thread(target=read)
    reader.start()
    linger(ours, 60.0)
    assert ours.fileno() == -1
    reader.join()
    assert b"".join(received) == ANSWER


def test_the_blocking_way_is_bounded_in_time() -> None:
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def send() -> None:
        while not stop.wait(0.002):
            try:
                theirs.send(b"still here")
            except OSError:
                break

    sender = threading.Thread(target=send)
    sender.start()
    start = time.monotonic()
    linger(ours, 0.05)
    assert time.monotonic() - start < 30
    assert ours.fileno() == -1
    stop.set()
    sender.join()
    theirs.close()


def test_the_blocking_way_is_bounded_in_bytes() -> None:
    ours, theirs = socket.socketpair()
    sent = 0

    def send() -> None:
        nonlocal sent
        try:
            while sent < 20 * LINGER_BYTES:
                sent += theirs.send(bytes(64 * 1024))
        except OSError:
            pass

    sender = threading.Thread(target=send)
    sender.start()
    linger(ours, 60.0)
    sender.join()
    assert LINGER_BYTES <= sent < 20 * LINGER_BYTES
    theirs.close()


def test_the_blocking_way_minds_no_peer_that_vanished() -> None:
    ours, theirs = tcp_pair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    linger(ours, 60.0)
    assert ours.fileno() == -1


async def test_hundreds_of_connections_leave_no_descriptor() -> None:
    lingering = lingering_sockets(0.05)
    for n in range(300):
        ours, theirs = non_blocking(socket.socketpair)()
        theirs.setblocking(False)
        theirs.send(b"unread")
        lingering.close(ours, queue_of(b"x") if n % 2 else None)
        theirs.close()
    await until(lambda: not len(lingering))


def test_a_socket_handed_to_a_loop_that_ends_before_it_takes_it_is_closed() -> None:
    loop = asyncio.new_event_loop()
    lingering = LingeringSockets(loop, 10)
    ours, theirs = non_blocking(socket.socketpair)()
    with theirs:
        theirs.settimeout(5)
        lingering.close_threadsafe(ours)
        del ours
        loop.close()
        assert theirs.recv(1) == b""


def test_a_socket_handed_to_a_loop_that_has_ended_is_left_to_its_owner() -> None:
    loop = asyncio.new_event_loop()
    lingering = LingeringSockets(loop, 10)
    loop.close()
    ours, theirs = non_blocking(socket.socketpair)()
    with ours, theirs:
        with pytest.raises(RuntimeError):
            lingering.close_threadsafe(ours)
        assert ours.fileno() >= 0

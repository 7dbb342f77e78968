"""Every method of the socket that a handler in a greenlet holds, as `socket.socket` has it."""

import array
import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aiosocketserver.greenlets.greenlet_socket import GreenletSocket
from aiosocketserver.greenlets.pool import GreenletPool
from tests.support import connected, small_pair, tcp_pair
from tests.tls_support import Certificates

R = TypeVar("R")


async def in_greenlet(function: Callable[[], R]) -> R:
    """What a function returns, or raises, that a greenlet runs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def run(_: object, __: object) -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)
        else:
            done.set_result(result)

    # Nobody else holds it, as the list of requests does in a server.
    runs = GreenletPool(loop).start(run, None, None, copy_context())
    try:
        return await done
    finally:
        del runs


def receiving() -> list[tuple[str, Callable[[socket.socket], object], object]]:
    """Ways to receive `hello`, which comes while the greenlet waits, and what they give."""

    def into(sock: socket.socket) -> object:
        buffer = bytearray(8)
        return sock.recv_into(buffer), bytes(buffer)

    def from_into(sock: socket.socket) -> object:
        buffer = bytearray(8)
        count, _ = sock.recvfrom_into(buffer, 5)
        return count, bytes(buffer)

    def message_into(sock: socket.socket) -> object:
        first, second = bytearray(2), bytearray(8)
        count, ancillary, flags, _ = sock.recvmsg_into([first, second])
        return count, bytes(first), bytes(second), ancillary, int(flags)

    def file(sock: socket.socket) -> object:
        with sock.makefile("rb") as reading:
            return reading.read(5)

    def text(sock: socket.socket) -> object:
        with sock.makefile("r", encoding="utf-8") as reading:
            return reading.read(5)

    return [
        ("recv", lambda sock: sock.recv(100), b"hello"),
        (
            "recv peeking",
            lambda sock: (sock.recv(100, socket.MSG_PEEK), sock.recv(2)),
            (b"hello", b"he"),
        ),
        ("recv_into", into, (5, b"hello\0\0\0")),
        ("recvfrom", lambda sock: sock.recvfrom(100)[0], b"hello"),
        ("recvfrom_into", from_into, (5, b"hello\0\0\0")),
        ("recvmsg", lambda sock: sock.recvmsg(100)[:2], (b"hello", [])),
        ("recvmsg_into", message_into, (5, b"he", b"llo\0\0\0\0\0", [], 0)),
        ("makefile rb", file, b"hello"),
        ("makefile r", text, "hello"),
    ]


@pytest.mark.parametrize(
    ("receive", "expected"),
    [pytest.param(way, expected, id=name) for name, way, expected in receiving()],
)
async def test_receiving_waits_for_the_peer(
    receive: Callable[[socket.socket], object], expected: object
) -> None:
    async with connected() as (stream, peer):
        result = asyncio.create_task(in_greenlet(lambda: receive(GreenletSocket(stream))))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not result.done()
        await peer.send(b"hello")
        assert await result == expected


DATA = os.urandom(1024 * 1024)


def sending(path: Path) -> list[tuple[str, Callable[[socket.socket], object]]]:
    """Ways to send `DATA`, which is more than the kernel takes."""
    path.write_bytes(DATA)

    def all_of(send: Callable[[memoryview], int]) -> None:
        rest = memoryview(DATA)
        while rest:
            rest = rest[send(rest) :]

    def with_file(sock: socket.socket) -> None:
        with path.open("rb") as file:
            assert sock.sendfile(file) == len(DATA)

    def by_file(sock: socket.socket) -> None:
        with sock.makefile("wb") as file:
            file.write(DATA)

    return [
        ("send", lambda sock: all_of(sock.send)),
        ("sendall", lambda sock: sock.sendall(DATA)),
        ("sendto", lambda sock: all_of(lambda rest: sock.sendto(rest, 0, sock.getpeername()))),
        ("sendmsg", lambda sock: all_of(lambda rest: sock.sendmsg([rest[:1], rest[1:]]))),
        ("sendfile", with_file),
        ("makefile wb", by_file),
    ]


@pytest.mark.parametrize("number", range(6))
async def test_sending_waits_for_the_peer(number: int, tmp_path: Path) -> None:
    _, send = sending(tmp_path / "data")[number]
    async with connected(small_pair()) as (stream, peer):
        sent = asyncio.create_task(in_greenlet(lambda: send(GreenletSocket(stream))))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not sent.done()
        assert await peer.receive(len(DATA)) == DATA
        await sent


async def test_descriptors_pass_in_both_directions() -> None:
    def exchange(sock: socket.socket) -> None:
        data, [received], _, _ = socket.recv_fds(sock, 100, 1)
        with os.fdopen(received, "wb") as file:
            file.write(data)
        socket.send_fds(sock, [b"back"], [1])

    read, write = os.pipe()
    async with connected() as (stream, peer):
        done = asyncio.create_task(in_greenlet(lambda: exchange(GreenletSocket(stream))))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write]))]
        peer.sock.sendmsg([b"over a pipe"], rights)
        os.close(write)
        await done
        with os.fdopen(read, "rb") as file:
            assert file.read() == b"over a pipe"
        data, [descriptor], _, _ = socket.recv_fds(peer.sock, 100, 1)
        os.close(descriptor)
        assert data == b"back"


async def test_time_outs_are_those_of_settimeout() -> None:
    waits = asyncio.Event()

    def wait(sock: socket.socket) -> tuple[object, ...]:
        assert (sock.gettimeout(), sock.timeout, sock.getblocking()) == (None, None, True)
        sock.settimeout(0.01)
        assert (sock.gettimeout(), sock.timeout) == (0.01, 0.01)
        with pytest.raises(TimeoutError, match="timed out"):
            sock.recv(1)
        sock.setblocking(False)
        assert not sock.getblocking()
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.setblocking(True)
        waits.set()
        return sock.gettimeout(), sock.recv(10)

    async with connected() as (stream, peer):
        result = asyncio.create_task(in_greenlet(lambda: wait(GreenletSocket(stream))))
        await waits.wait()
        await peer.send(b"late")
        assert await result == (None, b"late")


async def test_what_does_not_wait_is_sockets_own() -> None:
    async with connected(tcp_pair()) as (stream, peer):
        sock = GreenletSocket(stream)
        assert isinstance(sock, socket.socket)
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_STREAM
        assert sock.fileno() == stream.fileno() >= 0
        assert sock.getpeername() == peer.sock.getsockname()
        assert sock.getsockname() == peer.sock.getpeername()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not sock.get_inheritable()
        assert "GreenletSocket" in repr(sock)
        with pytest.raises(AttributeError, match="no attribute 'getpeercert'"):
            _ = sock.getpeercert


async def test_a_file_keeps_the_connection_open_until_it_is_closed() -> None:
    async with connected() as (stream, peer):
        sock = GreenletSocket(stream)
        file = sock.makefile("rb")
        sock.close()
        assert sock.fileno() >= 0
        await peer.send(b"hello")
        assert await in_greenlet(lambda: file.read(5)) == b"hello"
        file.close()
        assert sock.fileno() == -1
        assert await peer.receive_all() == b""
        with pytest.raises(OSError) as caught:
            await in_greenlet(lambda: sock.recv(1))
        assert caught.value.errno == errno.EBADF


async def test_shutdown_ends_one_side() -> None:
    def talk(sock: socket.socket) -> bytes:
        sock.sendall(b"that is all")
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(100)

    async with connected() as (stream, peer):
        result = asyncio.create_task(in_greenlet(lambda: talk(GreenletSocket(stream))))
        assert await peer.receive_all() == b"that is all"
        await peer.send(b"mine too")
        assert await result == b"mine too"


async def test_a_detached_descriptor_blocks_as_the_socket_did() -> None:
    async with connected() as (stream, peer):
        sock = GreenletSocket(stream)
        descriptor = sock.detach()
        assert sock.fileno() == -1
        with socket.socket(fileno=descriptor) as plain:
            assert os.get_blocking(descriptor)
            await peer.send(b"hello")
            assert plain.recv(10) == b"hello"


async def test_a_duplicate_is_a_plain_socket() -> None:
    async with connected() as (stream, peer):
        with GreenletSocket(stream).dup() as duplicate:
            assert type(duplicate) is socket.socket
            await peer.send(b"hello")
            assert duplicate.recv(10) == b"hello"
            with pytest.raises(BlockingIOError):
                duplicate.recv(10)


async def test_it_can_be_told_what_an_outsider_may_not_wait_for() -> None:
    async with connected() as (stream, peer):
        sock = GreenletSocket(stream)
        with pytest.raises(RuntimeError, match="only the handler itself can"):
            sock.recv(1)
        await peer.send(b"hello")
        # Nothing is lost, and what need not wait does.
        assert await in_greenlet(lambda: sock.recv(10)) == b"hello"


async def test_start_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)

    def serve(sock: Any) -> bytes:
        sock.sendall(b"go ahead\n")
        sock.start_tls(certificates.server_context())
        assert sock.version() == "TLSv1.3"
        data: bytes = sock.recv(100)
        sock.sendall(data.upper())
        return data

    def client(sock: socket.socket) -> bytes:
        sock.settimeout(20)
        assert sock.recv(100) == b"go ahead\n"
        context = certificates.client_context()
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
            secured.sendall(b"hello")
            return secured.recv(100)

    ours, theirs = socket.socketpair()
    async with connected((ours, theirs.dup())) as (stream, _):
        answered = asyncio.create_task(asyncio.to_thread(client, theirs))
        assert await in_greenlet(lambda: serve(GreenletSocket(stream))) == b"hello"
        assert await answered == b"HELLO"


async def test_wait_and_threads_do_not_mix() -> None:
    """A thread that the handler has started does not wait in its stead."""
    errors: list[BaseException] = []

    async with connected() as (stream, _):
        sock = GreenletSocket(stream)

        def receive() -> None:
            try:
                sock.recv(1)
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=receive)
        thread.start()
        await asyncio.to_thread(thread.join)
    assert len(errors) == 1


def test_every_blocking_method_of_a_socket_is_here() -> None:
    waits = ["recv", "recv_into", "recvfrom", "recvfrom_into", "recvmsg", "recvmsg_into"]
    waits += ["send", "sendall", "sendto", "sendmsg", "sendfile"]
    # They are for sockets that are not connected.
    others = {"accept", "bind", "connect", "connect_ex", "listen"}
    # Made of the others, by the standard library.
    made = {"makefile", "close", "get_inheritable", "set_inheritable"}
    has = {name for name in vars(GreenletSocket) if not name.startswith("_")}
    wanted = {
        name
        for name in dir(socket.socket)
        if not name.startswith("_") and name not in {"share", "sendmsg_afalg", "ioctl"}
    }
    assert wanted - has == others | made
    assert set(waits) <= has

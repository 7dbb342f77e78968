"""What several test files share. Small: a test should be readable on its own."""

import asyncio
import contextlib
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from aiosocketserver.sockets.lingering import LingeringSockets
from aiosocketserver.sockets.stream import StreamSocket


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Peer:
    """The other end of a connection: a plain non-blocking socket, read and written by the loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        """Exactly `size` bytes, or what came until the connection ended."""
        received = bytearray()
        while len(received) < size:
            block = await self._loop.sock_recv(self.sock, size - len(received))
            if not block:
                break
            received += block
        return bytes(received)

    async def receive_all(self) -> bytes:
        """What comes until the connection ends."""
        received = bytearray()
        while block := await self._loop.sock_recv(self.sock, 64 * 1024):
            received += block
        return bytes(received)

    def finish(self) -> None:
        """Say that no more comes."""
        self.sock.shutdown(socket.SHUT_WR)


@contextlib.asynccontextmanager
async def connected(
    pair: tuple[socket.socket, socket.socket] | None = None,
) -> AsyncIterator[tuple[StreamSocket, Peer]]:
    """A handler's socket without a server, and its peer; `pair` for sockets of a special kind."""
    ours, theirs = pair or socket.socketpair()
    lingering = LingeringSockets(asyncio.get_running_loop(), 2.0)
    connection = StreamSocket(ours, lingering)
    try:
        yield connection, Peer(theirs)
    finally:
        connection.close()
        theirs.close()
        await lingering.wait_closed()


def wait_until_readable(sock: HasFileno) -> None:
    """Block the loop until the kernel has input for `sock`, so that a test knows it is there."""
    assert select.select([sock], [], [], 10)[0], "nothing has arrived"


async def until_queued(listener: HasFileno, count: int) -> None:
    """Until the kernel has `count` connections for a listening TCP socket to accept.

    A client can be connected before its server's end is there to be accepted.
    """
    sock = socket.socket(fileno=os.dup(listener.fileno()))
    with sock:
        if sys.platform == "linux":

            def queued() -> int:
                # tcpi_unacked, which is the length of the queue when the socket listens.
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
                return int(struct.unpack_from("=I", info, 24)[0])

            await until(lambda: queued() >= count)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """A TCP connection over loopback: what `accept` returned, and its client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


def fill(sock: socket.socket) -> int:
    """Send until neither kernel buffer takes any more; how many bytes."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += sock.send(bytes(64 * 1024))
    return sent


@contextlib.asynccontextmanager
async def client_of(address: Any) -> AsyncIterator[Peer]:
    """A connected client of the stream server at `address`, as in its `server_address`."""
    if isinstance(address, tuple):
        family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
    else:
        family = socket.AF_UNIX
    with socket.socket(family) as sock:
        peer = Peer(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
        yield peer


async def ask(address: Any, question: bytes = b"") -> bytes:
    """The whole answer of the stream server at `address` to a client that then finishes."""
    async with client_of(address) as client:
        await client.send(question)
        client.finish()
        return await client.receive_all()


def small_pair() -> tuple[socket.socket, socket.socket]:
    """A connection whose kernel buffer takes a few KiB only."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, theirs


def arrived(peer: Peer) -> bytes:
    """What the kernel has for the peer at this moment."""
    try:
        return peer.sock.recv(1024 * 1024)
    except BlockingIOError:
        return b""


async def until(condition: Callable[[], object]) -> None:
    """Turn the loop until `condition()` is true, where no event tells."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def until_later(condition: Callable[[], object]) -> None:
    """`until`, where threads need the processor."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class Rescuer:
    """Helps a loop that stands still, so that the test fails and does not hang.

    While the loop has not run a callback for ten seconds, `rescue` is called in a thread, again
    and again.
    """

    def __init__(self, rescue: Callable[[], object]) -> None:
        self.was_needed = False
        self._rescue = rescue
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._runs = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._runs.set()
        self._thread.join()
        assert not self.was_needed, "the loop stood still"

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self._runs.clear()
            # Either it is seen here, or `_runs` is set behind it.
            if self._ended.is_set():
                return
            self._loop.call_soon_threadsafe(self._runs.set)
            while not self._runs.wait(0.01 if self.was_needed else 10):
                self.was_needed = True
                self._rescue()

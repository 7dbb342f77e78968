"""`wfile`: errors of writes that left later, or cannot leave any more."""

import asyncio
import errno
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer, UnixStreamServer
from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.plain_socket import is_error_of
from tests.support import arrived, ask, client_of, connected, small_pair, tcp_pair, until

# So many bytes may be pending before a write waits.
WRITE_LIMIT = 64 * 1024


async def test_error_of_a_write_that_left_later_is_raised_by_each_next_call() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"x" * 60_000)
        await until(lambda: connection._writer_registered)
        peer.sock.close()
        await until(lambda: connection._write_error is not None)
        errors = []
        for call in (
            lambda: wfile.write(b"more"),
            wfile.flush,
            lambda: wfile.writelines([b"more"]),
            lambda: connection.send(b"more"),
            lambda: connection.sendall(b"more"),
        ):
            with pytest.raises(BrokenPipeError) as caught:
                await call()
            assert is_error_of(caught.value, connection)
            errors.append(caught.value)
        assert len(set(map(id, errors))) == 5


async def test_error_reaches_everybody_who_waits_for_a_flush() -> None:
    async with connected(small_pair()) as (connection, peer):
        wfile = SocketWriter(connection)
        waiting = [
            asyncio.create_task(wfile.write(b"x" * WRITE_LIMIT)),
            asyncio.create_task(wfile.flush()),
        ]
        await until(lambda: connection._writer_registered)
        peer.sock.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [BrokenPipeError] * 2
        assert results[0] is not results[1]


class FailingSocket(socket.socket):
    """Fails to send with `error`, once it is set."""

    error: OSError | None = None

    def send(self, *args: Any) -> int:
        if self.error is not None:
            raise self.error
        return super().send(*args)


async def test_kernels_timeout_is_told_from_that_of_settimeout() -> None:
    ours, theirs = small_pair()
    failing = FailingSocket(fileno=ours.detach())
    async with connected((failing, theirs)) as (connection, peer):
        wfile = SocketWriter(connection)
        connection.settimeout(30)
        writing = asyncio.create_task(wfile.write(b"x" * WRITE_LIMIT))
        await until(lambda: connection._writer_registered)
        failing.error = TimeoutError(errno.ETIMEDOUT, "the kernel gave up")
        assert arrived(peer)
        with pytest.raises(TimeoutError, match="the kernel gave up") as caught:
            await writing
        assert is_error_of(caught.value, connection)


async def test_client_that_vanished_is_told_at_the_end_of_the_handler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connections = []
    gone = asyncio.Event()

    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await self.wfile.write(b"x" * 60_000)
            connections.append(self.connection)
            await gone.wait()

    caplog.set_level(logging.INFO, "aiosocketserver")
    async with UnixStreamServer(str(tmp_path / "s"), Handler) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.receive(1)
        await until(lambda: connections[0]._write_error is not None)
        gone.set()
    assert server.statistics.clients_vanished == 1
    (record,) = [r for r in caplog.records if "was lost" in r.getMessage()]
    assert record.exc_info is None


async def test_writing_to_what_was_shut_down_or_closed() -> None:
    async with connected() as (connection, peer):
        wfile = SocketWriter(connection)
        await wfile.write(b"before")
        connection.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError) as caught:
            await wfile.write(b"after")
        assert is_error_of(caught.value, connection)
        await wfile.flush()
        assert await peer.receive_all() == b"before"
        connection.close()
        with pytest.raises(OSError, match="Bad file descriptor") as closed:
            await wfile.write(b"after")
        assert closed.value.errno == errno.EBADF
        # Nothing is pending, so that finish() of a handler that closed has no error.
        await wfile.flush()


async def test_handler_that_shuts_down_and_closes_has_no_error() -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"all")
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.close()

    async with TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"all"
    assert server.statistics.clients_vanished == server.statistics.handlers_failed == 0


async def test_reset_connection_fails_the_write_that_waits() -> None:
    async with connected(tcp_pair()) as (connection, peer):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        writing = asyncio.create_task(SocketWriter(connection).write(bytes(8_000_000)))
        await until(lambda: connection._writer_registered)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sock.close()
        with pytest.raises(ConnectionResetError):
            await writing

"""A client that sends something and resets its connection, both in one turn of the server's loop.

The kernel gives what came first, and tells the reset to the next call. A loop may tell of both
together and only once: libuv, and so uvloop, then stops to watch the socket.
"""

import asyncio
import socket
import socketserver
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    GreenletTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
    UnixStreamServer,
)
from aiosocketserver.deploy.channel import Channel
from tests.support import until, until_later
from tests.tls_support import Certificates, blocking_client

LOCALHOST = ("127.0.0.1", 0)


async def recv(handler: Any) -> object:
    return await handler.request.recv(100)


async def recv_into(handler: Any) -> object:
    return await handler.request.recv_into(bytearray(100))


async def recvmsg(handler: Any) -> object:
    return (await handler.request.recvmsg(100))[0]


async def recv_with_time_out(handler: Any) -> object:
    handler.request.settimeout(60)
    return await handler.request.recv(100)


async def readline(handler: Any) -> object:
    return await handler.rfile.readline()


async def readexactly(handler: Any) -> object:
    return await handler.rfile.readexactly(100)


WAYS = [recv, recv_into, recvmsg, recv_with_time_out, readline, readexactly]


def reading(read: Callable[[Any], Coroutine[Any, Any, object]]) -> type[StreamRequestHandler]:
    class Reads(StreamRequestHandler):
        async def handle(self) -> None:
            # An answer that is not read makes a Unix client's close a reset.
            await self.request.sendall(await self.request.recv(100))
            while await read(self):
                pass

    return Reads


class LegacyReads(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(100))
        while self.rfile.readline():
            pass


def reset_behind_data(sock: socket.socket) -> None:
    sock.sendall(b"no end of a line")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    sock.close()


def is_waiting(server: TCPServer) -> bool:
    """Whether the handler has had its first words, and waits for more."""
    return any(
        entry.request._received and entry.request._read_waiter.waiting
        for entry in server._requests
        if isinstance(entry.request, StreamSocket)
    )


async def reset_and_see(server: TCPServer) -> None:
    async with server:
        await server.start_serving()
        sock = socket.socket(server.address_family)
        sock.connect(server.server_address)
        sock.sendall(b"a\n")
        await until(lambda: is_waiting(server))
        reset_behind_data(sock)
        await until_later(lambda: server.statistics.finished == 1)
        assert server.statistics.clients_vanished == 1
        assert server.statistics.handlers_failed == 0


@pytest.mark.parametrize("read", WAYS, ids=[way.__name__ for way in WAYS])
async def test_however_the_handler_reads(
    read: Callable[[Any], Coroutine[Any, Any, object]],
) -> None:
    await reset_and_see(TCPServer(LOCALHOST, reading(read)))


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    await reset_and_see(UnixStreamServer(str(tmp_path / "socket"), reading(readline)))


async def test_of_a_handler_in_a_greenlet() -> None:
    await reset_and_see(GreenletTCPServer(LOCALHOST, LegacyReads))


async def test_beside_a_task_that_writes() -> None:
    class Writes(StreamRequestHandler):
        async def handle(self) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.write())
                while await self.request.recv(100):
                    pass

        async def write(self) -> None:
            while True:
                await self.request.sendall(bytes(100_000))

    server = TCPServer(LOCALHOST, Writes)
    await reset_and_see(server)


async def test_under_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    server = TCPServer(LOCALHOST, reading(recv), ssl_context=certificates.server_context())
    async with server:
        await server.start_serving()
        async with blocking_client(server, certificates) as client:
            await until(lambda: is_waiting(server))
            client.plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
            client.secured.sendall(b"more")
            client.secured.close()
            client.plain.close()
            await until_later(lambda: server.statistics.finished == 1)
        assert server.statistics.clients_vanished == 1


async def test_a_worker_hears_that_its_parent_has_gone() -> None:
    ours, theirs = socket.socketpair()
    messages: list[dict[str, Any]] = []
    ended = asyncio.Event()
    channel = Channel(ours, messages.append, ended.set)
    # The parent is killed with a question on its way, and has not read the last answer.
    channel.send({"answer": 1})
    theirs.sendall(b'{"question": 2}\n')
    theirs.close()
    await ended.wait()
    assert messages == [{"question": 2}]

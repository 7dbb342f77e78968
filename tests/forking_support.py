"""What the tests of forking servers share: clients that a child lets go of, and handlers."""

import asyncio
import contextlib
import os
import socket
import socketserver
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiosocketserver
from tests.support import Peer, until_later

# The clients are in this process, so a child has a copy of each, and would be its own peer.
_clients: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _close_clients() -> None:
    for sock in [sock for sock in _clients if sock.fileno() >= 0]:
        # close() would wait until uvloop has let go of it.
        os.close(sock.detach())


os.register_at_fork(after_in_child=_close_clients)


@contextlib.asynccontextmanager
async def client_of(address: Any) -> AsyncIterator[Peer]:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        _clients.add(sock)
        client = Peer(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
        yield client


async def ask(address: Any, question: bytes = b"") -> bytes:
    async with client_of(address) as client:
        await client.send(question)
        client.finish()
        return await client.receive_all()


class Telling(socketserver.StreamRequestHandler):
    """Answers with what `tell` returns."""

    def tell(self) -> object:
        raise NotImplementedError

    def handle(self) -> None:
        self.wfile.write(str(self.tell()).encode())


def forking_server(
    tell: Callable[[Any], object], **options: Any
) -> aiosocketserver.ForkingTCPServer:
    handler = type("Handler", (Telling,), {"tell": tell})
    return aiosocketserver.ForkingTCPServer(("127.0.0.1", 0), handler, **options)


class Held(socketserver.StreamRequestHandler):
    """Answers with its process id, and ends when its client sends a line."""

    def handle(self) -> None:
        self.wfile.write(b"%d\n" % os.getpid())
        self.rfile.readline()


def held_server(**options: Any) -> aiosocketserver.ForkingTCPServer:
    # A child would wait for its client to close.
    options.setdefault("linger_timeout", 0)
    return aiosocketserver.ForkingTCPServer(("127.0.0.1", 0), Held, **options)


async def pid_from(client: Peer) -> int:
    line = b""
    while not line.endswith(b"\n"):
        byte = await client.receive(1)
        assert byte, "the connection ended"
        line += byte
    return int(line)


async def all_reaped(server: aiosocketserver.BaseServer) -> None:
    await until_later(lambda: not server.requests())


def exists(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

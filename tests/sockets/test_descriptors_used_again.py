"""No descriptor is closed, shut down or written to that is somebody else's by now.

The kernel gives the lowest free number away first, so that what a handler closes is the next
thing's number at once. uvloop's #645 and #738 were such: an answer reached another user.
"""

import asyncio
import contextlib
import os
import socket
import socketserver
import struct
from collections.abc import Callable
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, connect, receive_all, serving
from tests.support import client_of

LOCALHOST = ("127.0.0.1", 0)


def close(request: Any) -> int:
    number: int = request.fileno()
    # Or the kernel's socket stays until its client has everything.
    request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    request.close()
    return number


def detach_and_close(request: Any) -> int:
    number: int = request.detach()
    os.close(number)
    return number


def give_to_another_socket(request: Any) -> int:
    with socket.socket(fileno=request.detach()) as sock:
        return sock.fileno()


def close_twice(request: Any) -> int:
    number = close(request)
    request.close()
    return number


LETTING_GO: list[Callable[[Any], int]] = [
    close,
    detach_and_close,
    give_to_another_socket,
    close_twice,
]


class Taken:
    """A pair of sockets, one of which has the number of what a handler has let go of."""

    def __init__(self) -> None:
        self.pair: tuple[socket.socket, socket.socket] | None = None

    def take(self, number: int) -> None:
        # Another thread may have given back a lower number meanwhile.
        pairs = [socket.socketpair() for _ in range(5)]
        for one, two in pairs:
            if number in (one.fileno(), two.fileno()):
                self.pair = one, two
            else:
                one.close()
                two.close()

    def check(self) -> None:
        """Nobody has touched it."""
        assert self.pair is not None
        with self.pair[0] as one, self.pair[1] as two:
            for sock in (one, two):
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
            one.sendall(b"from one")
            assert two.recv(100) == b"from one"
            two.sendall(b"from two")
            assert one.recv(100) == b"from two"


def coroutine_handler(let_go: Callable[[Any], int], taken: Taken, fails: bool) -> type:
    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.recv(1)
            taken.take(let_go(self.request))
            with contextlib.suppress(OSError):
                await self.request.sendall(b"somebody's answer")
            if fails:
                raise ValueError("as it shall")

    return Handler


def legacy_handler(let_go: Callable[[Any], int], taken: Taken, fails: bool) -> type:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            taken.take(let_go(self.request))
            with contextlib.suppress(OSError):
                self.request.sendall(b"somebody's answer")
            if fails:
                raise ValueError("as it shall")

    return Handler


each_way = pytest.mark.parametrize("let_go", LETTING_GO)
failing_or_not = pytest.mark.parametrize("fails", [False, True])


@failing_or_not
@each_way
@pytest.mark.parametrize(
    ("server_class", "handler"),
    [
        (aiosocketserver.TCPServer, coroutine_handler),
        (aiosocketserver.ThreadingTCPServer, legacy_handler),
        (aiosocketserver.GreenletTCPServer, legacy_handler),
    ],
    ids=["tasks", "threads", "greenlets"],
)
async def test_after_a_request_that_let_go_of_its_connection(
    server_class: Any, handler: Any, let_go: Callable[[Any], int], fails: bool
) -> None:
    taken = Taken()
    async with server_class(LOCALHOST, handler(let_go, taken, fails)) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"?")
            with contextlib.suppress(ConnectionError):
                assert await client.receive_all() == b""
        await server.shutdown()
    taken.check()


@failing_or_not
@each_way
@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("server_class", "handler"),
    [
        (compat.TCPServer, legacy_handler),
        (compat.ThreadingTCPServer, legacy_handler),
        (compat.GreenletTCPServer, legacy_handler),
        (compat.TCPServer, coroutine_handler),
    ],
    ids=["plain", "threads", "greenlets", "tasks"],
)
def test_after_a_request_of_compat_that_let_go_of_its_connection(
    server_class: Any, handler: Any, name: str, let_go: Callable[[Any], int], fails: bool
) -> None:
    taken = Taken()

    class Server(server_class):  # type: ignore[misc]
        loop_factory = name

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

    with (
        serving(Server(LOCALHOST, handler(let_go, taken, fails))) as server,
        connect(server.server_address) as client,
    ):
        client.sendall(b"?")
        with contextlib.suppress(ConnectionError):
            assert receive_all(client) == b""
    taken.check()


@each_way
@pytest.mark.parametrize("end", ["shutdown", "request_timeout", "cancelled"])
async def test_what_cuts_a_request_leaves_alone_what_it_let_go_of(
    end: str, let_go: Callable[[Any], int]
) -> None:
    """Its handler goes on, and has its number no more."""
    taken = Taken()
    begun = asyncio.Event()
    tasks: list[asyncio.Task[Any] | None] = []

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            # It has been registered with the loop.
            await self.rfile.readline()
            await self.wfile.write(b"answer")
            await self.wfile.flush()
            taken.take(let_go(self.request))
            tasks.append(asyncio.current_task())
            begun.set()
            await asyncio.Event().wait()

    options: dict[str, Any] = {"request_timeout": 0.2} if end == "request_timeout" else {}
    async with aiosocketserver.TCPServer(LOCALHOST, Handler, **options) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await asyncio.sleep(0)
            await client.send(b"?\n")
            await begun.wait()
            (task,) = tasks
            assert task is not None
            if end == "cancelled":
                task.cancel()
            elif end == "shutdown":
                await server.shutdown(0)
            async with asyncio.timeout(BOUND):
                await asyncio.wait([task])
            with contextlib.suppress(ConnectionError):
                assert await client.receive_all() == b"answer"
    taken.check()

"""A proxy that passes each connection on to another server, and does not look at the bytes.

On Linux they do not even come into this process: splice(2) moves them through a pipe in the
kernel. When one side says that it sends no more, the other is told so, and of a reset too.

Start it, and talk to the other server through it; Ctrl-C or SIGTERM stops it:

    python examples/tcp_proxy.py UPSTREAM_HOST:PORT [BIND]        (tcp://127.0.0.1:9999)
    curl http://127.0.0.1:9999/                                   (if upstream is a web server)
"""

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from aiosocketserver import BaseRequestHandler, StartError, run

BLOCK_SIZE = 64 * 1024  # what a pipe holds
RESET = struct.pack("ii", 1, 0)  # with SO_LINGER: close() sends a reset (socket(7))

Connect = Callable[[], socket.socket]
Moved = Callable[[int], None]
Pump = Callable[[socket.socket, socket.socket, Moved], Coroutine[Any, Any, None]]

logger = logging.getLogger("tcp_proxy")


async def copy(source: socket.socket, target: socket.socket, moved: Moved) -> None:
    """Move all that the source sends to the target, then tell its end."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, BLOCK_SIZE):
        await loop.sock_sendall(target, data)
        moved(len(data))
        await asyncio.sleep(0)  # with input and room all the time, neither of them waits
    target.shutdown(socket.SHUT_WR)


async def splice(source: socket.socket, target: socket.socket, moved: Moved) -> None:
    """The same in the kernel."""
    loop = asyncio.get_running_loop()
    readable = source, loop.add_reader, loop.remove_reader
    writable = target, loop.add_writer, loop.remove_writer
    outlet, inlet = os.pipe()
    try:
        while size := await splice_when(*readable, source.fileno(), inlet, BLOCK_SIZE):
            while size:
                sent = await splice_when(*writable, outlet, target.fileno(), size)
                moved(sent)
                size -= sent
    finally:
        os.close(outlet)
        os.close(inlet)
    target.shutdown(socket.SHUT_WR)


async def splice_when(
    sock: socket.socket, add: Callable[..., Any], remove: Callable[..., Any], *arguments: int
) -> int:
    """Call splice() until the socket is ready; how much it has moved."""
    while True:
        # First a try: of a socket with an error uvloop tells once, and watches it no more.
        with contextlib.suppress(BlockingIOError):
            moved = os.splice(*arguments)
            await asyncio.sleep(0)  # with input and room all the time, it would not wait
            return moved
        ready = asyncio.Event()
        add(sock, ready.set)
        try:
            await ready.wait()
        finally:
            remove(sock)


class Forward(BaseRequestHandler):
    def __init__(self, *request: Any, connect: Connect, pump: Pump, idle: float) -> None:
        super().__init__(*request)
        self.connect, self.pump, self.idle, self.sizes = connect, pump, idle, [0, 0]

    async def handle(self) -> None:
        try:
            upstream = await self.server.run_in_thread(self.connect)
        except OSError as error:
            logger.warning("%s: no connection to the upstream: %s", self.client_address, error)
            return
        # From here on both sockets are treated alike, so neither is the server's.
        with upstream, socket.socket(fileno=self.request.detach()) as client:
            end = "cut"
            try:
                await self.forward(client, upstream)
                end = "done"
            except* OSError as errors:
                end = str(errors.exceptions[0]) or "idle"
            finally:
                if end != "done":
                    # Neither side shall take what it got for all there is.
                    for sock in (client, upstream):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                logger.info("%s: %s, %d bytes up, %d down", self.client_address, end, *self.sizes)

    async def forward(self, client: socket.socket, upstream: socket.socket) -> None:
        async with asyncio.timeout(self.idle) as timeout, asyncio.TaskGroup() as group:

            def moved(way: int, size: int) -> None:
                self.sizes[way] += size
                if not timeout.expired():
                    timeout.reschedule(asyncio.get_running_loop().time() + self.idle)

            for way, (source, target) in enumerate([(client, upstream), (upstream, client)]):
                source.setblocking(False)
                if source.family != socket.AF_UNIX:
                    source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                group.create_task(self.pump(source, target, functools.partial(moved, way)))


def address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not (parts.hostname and parts.port):
        raise ValueError(text)
    return parts.hostname.encode("idna").decode(), parts.port


def main() -> None:
    parser = argparse.ArgumentParser(description="Pass connections on to another server.")
    parser.add_argument("upstream", metavar="UPSTREAM_HOST:PORT", type=address)
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    parser.add_argument("--idle", metavar="SECONDS", type=float, default=600)
    parser.add_argument("--drain", metavar="SECONDS", type=float, default=10)
    parser.add_argument("--no-splice", action="store_true", help="as on systems without it")
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    pump = splice if hasattr(os, "splice") and not given.no_splice else copy
    # Looks up the name, and tries each address for 10 seconds. It blocks: for a thread.
    connect = functools.partial(socket.create_connection, given.upstream, 10)
    handler = functools.partial(Forward, connect=connect, pump=pump, idle=given.idle)
    try:
        # Two sockets and two pipes are six descriptors; many systems allow a process 1024.
        sys.exit(run(handler, given.bind, max_connections=150, shutdown_timeout=given.drain))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

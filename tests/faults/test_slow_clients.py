"""Clients that do not read, or send a byte now and then, among honest ones."""

import asyncio
import contextlib
import os
import socket
import socketserver
from pathlib import Path

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    GreenletTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
)
from tests.support import Peer, client_of, until

LOCALHOST = ("127.0.0.1", 0)
GIBIBYTE = 1 << 30


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


def resident() -> int:
    """Bytes of this process's memory that no file backs."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


async def accepts_nothing_more(client: Peer) -> int:
    """Send until the server's kernel and ours take nothing; how many bytes that was."""
    sent = 0
    block = bytes(256 * 1024)
    with contextlib.suppress(TimeoutError):
        while sent < GIBIBYTE:
            async with asyncio.timeout(0.5):
                await client.send(block)
                sent += len(block)
    return sent


@pytest.mark.parametrize("way", ["socket", "files", "greenlet"])
async def test_a_client_that_sends_without_end_and_never_reads(way: str) -> None:
    """An echo to it has nowhere to go: the server stops reading, and keeps next to nothing."""

    class EchoBlocks(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            while data := await self.request.recv(64 * 1024):
                await self.request.sendall(data)

    class EchoFiles(StreamRequestHandler):
        async def handle(self) -> None:
            while data := await self.rfile.read1():
                await self.wfile.write(data)

    class LegacyEcho(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(64 * 1024):
                self.request.sendall(data)

    server: TCPServer
    if way == "greenlet":
        server = GreenletTCPServer(LOCALHOST, LegacyEcho)
    else:
        server = TCPServer(LOCALHOST, EchoFiles if way == "files" else EchoBlocks)
    async with server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"x")
            assert await client.receive(1) == b"x"
            before = resident()
            assert await accepts_nothing_more(client) < GIBIBYTE
            assert resident() - before < 1024 * 1024
            # Others are served.
            async with client_of(server.server_address) as other:
                await other.send(b"hello")
                assert await other.receive(5) == b"hello"
        await server.shutdown(0)


async def test_slow_clients_are_cut_and_no_honest_one() -> None:
    """1,000 that send a byte now and then, and connections that last longer than any time-out."""
    loop = asyncio.get_running_loop()
    honest_may_end = asyncio.Event()
    server = TCPServer(LOCALHOST, Echo, read_timeout=1.0, write_timeout=1.0, handshake_timeout=1.0)

    async def be_slow(stack: contextlib.AsyncExitStack) -> None:
        client = await stack.enter_async_context(client_of(server.server_address))
        with contextlib.suppress(OSError):
            while True:
                await client.send(b"x")
                await asyncio.sleep(0.2)

    async def be_honest(client: Peer, pause: float) -> None:
        while not honest_may_end.is_set():
            await client.send(b"a line\n")
            assert await client.receive(7) == b"a line\n"
            await asyncio.sleep(pause)

    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server)
        await server.start_serving()
        honest = []
        # Some talk all the time, some are silent for longer than read_timeout.
        for pause in (0.05,) * 5 + (1.5,) * 5:
            client = await stack.enter_async_context(client_of(server.server_address))
            honest.append(asyncio.create_task(be_honest(client, pause)))
        begun = loop.time()
        slow = [asyncio.create_task(be_slow(stack)) for _ in range(1000)]
        await asyncio.gather(*slow)
        assert loop.time() - begun > 1.0
        await until(lambda: server.statistics.active == len(honest))
        await asyncio.sleep(2.0)
        honest_may_end.set()
        await asyncio.gather(*honest)
        assert server.statistics.timed_out == {"read_timeout": 1000}
        assert server.statistics.clients_vanished == 0


async def test_a_client_that_reads_nothing_for_ever_is_cut_by_write_timeout() -> None:
    async with TCPServer(LOCALHOST, Echo, write_timeout=0.5) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(OSError):
                while True:
                    await client.send(b"x" * 60000 + b"\n")
        assert server.statistics.timed_out == {"write_timeout": 1}

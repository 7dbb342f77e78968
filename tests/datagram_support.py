"""What the tests of datagrams share: a client's calls, handlers that wait, a server that counts."""

import asyncio
import socket
from typing import Any, ClassVar

import aiosocketserver


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


async def ask(sock: socket.socket, server: aiosocketserver.UDPServer, data: bytes) -> bytes:
    sock.sendto(data, server.server_address)
    return await receive(sock)


class Handler(aiosocketserver.BaseRequestHandler):
    request: tuple[bytes, aiosocketserver.DatagramSocket]

    async def reply(self, data: bytes | str) -> None:
        answer = data.encode() if isinstance(data, str) else data
        await self.request[1].sendto(answer, self.client_address)


class Gated(Handler):
    """Says that it has begun, and ends when the gate opens."""

    begun: ClassVar[asyncio.Queue[bytes]]
    gate: ClassVar[asyncio.Event]

    async def handle(self) -> None:
        self.begun.put_nowait(self.request[0])
        await self.gate.wait()


class CountingServer(aiosocketserver.UDPServer):
    """Tells when it has read a number of datagrams."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.read = 0
        self.wanted = 0
        self.all_read = asyncio.Event()

    def get_request(self) -> tuple[Any, Any]:
        request = super().get_request()
        self.read += 1
        if self.read == self.wanted:
            self.all_read.set()
        return request

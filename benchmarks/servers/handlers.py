"""Handlers of aiosocketserver for the commonest roles."""

from aiosocketserver import BaseRequestHandler, StreamRequestHandler
from benchmarks.servers.job import BLOCK_SIZE


class Echo(BaseRequestHandler):
    async def handle(self) -> None:
        while data := await self.request.recv(BLOCK_SIZE):
            await self.request.sendall(data)


class Lines(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Connects(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(await self.request.recv(BLOCK_SIZE))

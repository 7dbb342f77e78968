"""Coroutine handlers of aiosocketserver: bare sockets, and files in the role `lines`."""

import asyncio

from aiosocketserver import BaseRequestHandler, TCPServer, UDPServer, UnixStreamServer
from benchmarks.servers.handlers import Connects, Echo, Lines
from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, FILE_SIZE, job_from_command_line

job = job_from_command_line()


class Datagrams(BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        await sock.sendto(data, self.client_address)


class Upload(BaseRequestHandler):
    async def handle(self) -> None:
        count = 0
        while data := await self.request.recv(BLOCK_SIZE):
            count += len(data)
        await self.request.sendall(b"%d\n" % count)


class Download(BaseRequestHandler):
    async def handle(self) -> None:
        for _ in range(job.size // BLOCK_SIZE):
            await self.request.sendall(BLOCK)


class Sendfile(BaseRequestHandler):
    async def handle(self) -> None:
        with job.make_file() as file:
            for _ in range(job.size // FILE_SIZE):
                await self.request.sendfile(file)


HANDLERS = {
    "echo": Echo,
    "lines": Lines,
    "connects": Connects,
    "datagrams": Datagrams,
    "upload": Upload,
    "download": Download,
    "sendfile": Sendfile,
}


def make_server() -> TCPServer | UDPServer:
    handler = HANDLERS[job.task]
    if job.path:
        return UnixStreamServer(job.path, handler, request_queue_size=BACKLOG)
    if job.role == "datagrams":
        return UDPServer(("127.0.0.1", 0), handler)
    context = job.make_context()
    return TCPServer(("127.0.0.1", 0), handler, request_queue_size=BACKLOG, ssl_context=context)


async def main() -> None:
    async with make_server() as server:
        await server.start_serving()
        job.announce(None if job.path else server.server_address[1])
        await server.serve_forever()


with asyncio.Runner(loop_factory=job.new_event_loop) as runner:
    runner.run(main())

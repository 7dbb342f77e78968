"""tornado's TCPServer, as the example of its documentation."""

import asyncio

from tornado.iostream import StreamClosedError
from tornado.tcpserver import TCPServer

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, job_from_command_line

job = job_from_command_line()


class Echo(TCPServer):
    async def handle_stream(self, stream, address):
        try:
            while True:
                await stream.write(await stream.read_bytes(BLOCK_SIZE, partial=True))
        except StreamClosedError:
            pass


class Lines(TCPServer):
    async def handle_stream(self, stream, address):
        try:
            while True:
                await stream.write(await stream.read_until(b"\n"))
        except StreamClosedError:
            pass


class Connects(TCPServer):
    async def handle_stream(self, stream, address):
        await stream.write(await stream.read_bytes(BLOCK_SIZE, partial=True))
        stream.close()


class Download(TCPServer):
    async def handle_stream(self, stream, address):
        for _ in range(job.size // BLOCK_SIZE):
            await stream.write(BLOCK)
        stream.close()


SERVERS = {"echo": Echo, "lines": Lines, "connects": Connects, "download": Download}


async def main():
    server = SERVERS[job.task](ssl_options=job.make_context())
    server.listen(0, "127.0.0.1", backlog=BACKLOG)
    (sock,) = server._sockets.values()
    job.announce(sock.getsockname()[1])
    await asyncio.Event().wait()


with asyncio.Runner(loop_factory=job.new_event_loop) as runner:
    runner.run(main())

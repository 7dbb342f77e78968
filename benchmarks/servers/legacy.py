"""Legacy handlers: `legacy WAY ROLE`, on socketserver, compat, or our own threads or greenlets."""

import asyncio
import socketserver
import sys
from typing import Any

import aiosocketserver
from aiosocketserver import compat
from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, FILE_SIZE, job_from_command_line

WAY = sys.argv.pop(1)
job = job_from_command_line()


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(BLOCK_SIZE):
            self.request.sendall(data)


class Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Connects(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(BLOCK_SIZE))


class Datagrams(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Upload(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        count = 0
        while data := self.request.recv(BLOCK_SIZE):
            count += len(data)
        self.request.sendall(b"%d\n" % count)


class Download(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        for _ in range(job.size // BLOCK_SIZE):
            self.request.sendall(BLOCK)


class Sendfile(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with job.make_file() as file:
            for _ in range(job.size // FILE_SIZE):
                self.request.sendfile(file)


HANDLERS = {
    "echo": Echo,
    "lines": Lines,
    "connects": Connects,
    "datagrams": Datagrams,
    "upload": Upload,
    "download": Download,
    "sendfile": Sendfile,
}


OURS: dict[str, type[aiosocketserver.TCPServer]] = {
    "threads": aiosocketserver.ThreadingTCPServer,
    "greenlets": aiosocketserver.GreenletTCPServer,
}


async def serve_here() -> None:
    """On the core's own mix-ins."""
    server_class = OURS[WAY]
    server = server_class(
        ("127.0.0.1", 0),
        HANDLERS[job.task],
        request_queue_size=BACKLOG,
        ssl_context=job.make_context(),
    )
    async with server:
        await server.start_serving()
        job.announce(server.server_address[1])
        await server.serve_forever()


def serve(module: Any) -> None:
    """On socketserver's classes, or compat's."""
    handler = HANDLERS[job.role]
    if job.role == "datagrams":
        # Of which socketserver makes no thread for each.
        server = module.UDPServer(("127.0.0.1", 0), handler)
    elif job.path:
        server = module.ThreadingUnixStreamServer(job.path, handler)
    else:
        server = module.ThreadingTCPServer(("127.0.0.1", 0), handler, False)
        server.request_queue_size = BACKLOG
        server.server_bind()
        server.server_activate()
    server.daemon_threads = True
    # Only compat's knows it.
    server.loop_factory = job.loop
    with server:
        job.announce(None if job.path else server.server_address[1])
        server.serve_forever()


if WAY in OURS:
    with asyncio.Runner(loop_factory=job.new_event_loop) as runner:
        runner.run(serve_here())
else:
    serve({"socketserver": socketserver, "compat": compat}[WAY])

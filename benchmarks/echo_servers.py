"""The servers that echo.py measures, one to a process: `echo_servers.py WHICH HOW LOOP [CPU]`.

It prints its port, and then, for each line on its standard input, the CPU time in
seconds that it has used so far. It ends with its standard input.
"""

import asyncio
import os
import resource
import socketserver
import sys
import threading

from aiosocketserver import BaseRequestHandler, StreamRequestHandler, TCPServer, compat

BLOCK = 64 * 1024


class Lines(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Blocks(BaseRequestHandler):
    async def handle(self) -> None:
        while data := await self.request.recv(BLOCK):
            await self.request.sendall(data)


async def stream_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def stream_blocks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BLOCK):
        writer.write(data)
        await writer.drain()
    writer.close()


class Threads(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(BLOCK):
            self.request.sendall(data)


class Connects(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(self.request.recv(BLOCK))


LEGACY_HANDLERS = {"threads": Threads, "connects": Connects}
HANDLERS = {"lines": Lines, "blocks": Blocks}
CALLBACKS = {"lines": stream_lines, "blocks": stream_blocks}


def tell_cpu_time() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, flush=True)


def serve_legacy(which: str, how: str, loop: str) -> None:
    module = compat if which == "aiosocketserver" else socketserver
    server = module.ThreadingTCPServer(("127.0.0.1", 0), LEGACY_HANDLERS[how], False)
    # With 5, socketserver's own, a burst of clients waits for its SYN to be sent again.
    server.request_queue_size = 128
    # Only compat's knows it.
    vars(server)["loop_factory"] = loop
    with server:
        server.server_bind()
        server.server_activate()
        threading.Thread(target=server.serve_forever).start()
        print(server.server_address[1], flush=True)
        for _ in sys.stdin:
            tell_cpu_time()
        server.shutdown()


async def answer_standard_input() -> None:
    """Tell the CPU time whenever a line comes; return at the end of the input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        tell_cpu_time()


async def serve(which: str, how: str) -> None:
    if which == "aiosocketserver":
        async with TCPServer(("127.0.0.1", 0), HANDLERS[how]) as server:
            await server.start_serving()
            print(server.server_address[1], flush=True)
            await answer_standard_input()
    else:
        streams = await asyncio.start_server(CALLBACKS[how], "127.0.0.1", 0)
        async with streams:
            print(streams.sockets[0].getsockname()[1], flush=True)
            await answer_standard_input()


def main(which: str, how: str, loop: str, cpu: str = "") -> None:
    if cpu:
        os.sched_setaffinity(0, {int(cpu)})
    if how in LEGACY_HANDLERS:
        serve_legacy(which, how, loop)
        return
    new_event_loop = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        new_event_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(which, how))


if __name__ == "__main__":
    main(*sys.argv[1:])

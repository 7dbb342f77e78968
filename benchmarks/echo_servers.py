"""The servers that echo.py measures, one to a process: `echo_servers.py WHICH HOW LOOP [CPU]`.

It prints its port, and then, for each line on its standard input, the CPU time in
seconds that it has used so far. It ends with its standard input.
"""

import asyncio
import os
import resource
import sys

from aiosocketserver import BaseRequestHandler, StreamRequestHandler, TCPServer

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


HANDLERS = {"lines": Lines, "blocks": Blocks}
CALLBACKS = {"lines": stream_lines, "blocks": stream_blocks}


async def answer_standard_input() -> None:
    """Tell the CPU time whenever a line comes; return at the end of the input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(used.ru_utime + used.ru_stime, flush=True)


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
    new_event_loop = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        new_event_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(which, how))


if __name__ == "__main__":
    main(*sys.argv[1:])

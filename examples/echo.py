"""A server that sends each line back: the shape of every server made with aiosocketserver.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/echo.py [HOST [PORT]]        (127.0.0.1 9999)
    nc 127.0.0.1 9999
"""

import argparse
import asyncio
import signal
import sys

from aiosocketserver import StreamRequestHandler, TCPServer

try:
    import uvloop
except ImportError:
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


async def serve(server: TCPServer) -> None:
    """Serve until SIGINT or SIGTERM; `async with` then lets the handlers end."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with server:
        await server.start_serving()
        host, port = server.server_address[:2]
        print(f"echoing lines on {host} port {port}, on {type(loop).__module__}")
        print(f"to talk to it: nc {host} {port}", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Send each line back.")
    parser.add_argument("host", nargs="?", default="127.0.0.1")
    parser.add_argument("port", nargs="?", type=int, default=9999)
    arguments = parser.parse_args()
    try:
        # Clients that are still connected at the end have one second to leave by themselves.
        server = TCPServer((arguments.host, arguments.port), Echo, shutdown_timeout=1)
    except (OSError, ValueError) as error:
        sys.exit(f"cannot serve there: {error}")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(server))


if __name__ == "__main__":
    main()

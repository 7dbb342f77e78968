"""A handler made for socketserver, unchanged and in threads, beside a coroutine on the same loop.

Each of the two servers answers a line with the name of the thread that served it.

Start it, and talk to both from other terminals; Ctrl-C or SIGTERM stops it:

    python examples/legacy_threads.py [LEGACY_PORT [PORT]]        (9997 9996)
    nc 127.0.0.1 9997         a thread for each connection; threads are reused
    nc 127.0.0.1 9996         a task on the loop for each connection
"""

import argparse
import asyncio
import signal
import socketserver
import sys
import threading

from aiosocketserver import StreamRequestHandler, TCPServer, ThreadingTCPServer

try:
    import uvloop
except ImportError:
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop


class Legacy(socketserver.StreamRequestHandler):
    """The standard library's base class, a blocking socket and blocking files."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(threading.current_thread().name.encode() + b": " + line)


class Migrated(StreamRequestHandler):
    """The same after the migration: `async` before `def` and `for`, `await` before the write."""

    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(threading.current_thread().name.encode() + b": " + line)


async def serve(legacy: ThreadingTCPServer, migrated: TCPServer) -> None:
    """Serve both until SIGINT or SIGTERM; `async with` then lets the handlers end."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with legacy, migrated:
        for server, where in ((legacy, "in threads"), (migrated, "as tasks")):
            await server.start_serving()
            host, port = server.server_address
            print(f"serving {where} on {host} port {port}, on {type(loop).__module__}")
            print(f"to talk to it: nc {host} {port}", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A legacy handler beside a coroutine handler.")
    parser.add_argument("legacy_port", nargs="?", type=int, default=9997)
    parser.add_argument("port", nargs="?", type=int, default=9996)
    arguments = parser.parse_args()
    try:
        legacy = ThreadingTCPServer(
            ("127.0.0.1", arguments.legacy_port), Legacy, shutdown_timeout=1
        )
        migrated = TCPServer(("127.0.0.1", arguments.port), Migrated, shutdown_timeout=1)
    except (OSError, ValueError) as error:
        sys.exit(f"cannot serve there: {error}")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(legacy, migrated))


if __name__ == "__main__":
    main()

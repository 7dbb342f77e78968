"""A handler made for socketserver, unchanged and in threads, beside a coroutine on the same loop.

Each of the two servers answers a line with the name of the thread that served it.

Start it, and talk to both from other terminals; Ctrl-C or SIGTERM stops it:

    python examples/legacy_threads.py [LEGACY_PORT [PORT]]        (9997 9996)
    nc 127.0.0.1 9997         a thread for each connection; threads are reused
    nc 127.0.0.1 9996         a task on the loop for each connection
"""

import argparse
import logging
import socketserver
import sys
import threading

from aiosocketserver import StreamRequestHandler, TCPServer, ThreadingTCPServer, run


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


def main() -> None:
    parser = argparse.ArgumentParser(description="A legacy handler beside a coroutine handler.")
    parser.add_argument("legacy_port", nargs="?", type=int, default=9997)
    parser.add_argument("port", nargs="?", type=int, default=9996)
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        legacy = ThreadingTCPServer(
            ("127.0.0.1", arguments.legacy_port), Legacy, shutdown_timeout=1
        )
        migrated = TCPServer(("127.0.0.1", arguments.port), Migrated, shutdown_timeout=1)
    except (OSError, OverflowError) as error:
        sys.exit(str(error))
    sys.exit(run([legacy, migrated]))


if __name__ == "__main__":
    main()

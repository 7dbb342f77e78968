"""The time, in front of what a client sends: four ways to serve many clients, side by side.

    one          one connection at a time; the others wait in the backlog
    pool         a fixed number of threads (--threads), each with one connection at a time
    threads      a thread for each connection; threads are reused
    tasks        a task on the event loop for each connection

The first three have one handler, made for socketserver, and differ in `max_threads`. With
a limit, the server accepts nobody whom it has no thread for. docs/examples/time_server.md
has what each did with 1, 100 and 1,000 clients.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/time_server.py [--model one|pool|threads|tasks] [--threads N] [BIND]
    nc 127.0.0.1 8080

The model is `tasks`, N is 10 and BIND is tcp://127.0.0.1:8080 by default.
"""

import argparse
import logging
import socketserver
import sys
import time

from aiosocketserver import BaseRequestHandler, StartError, run


def stamped(data: bytes) -> bytes:
    return b"%b | %b" % (time.ctime().encode(), data)


class BlockingTime(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(stamped(data))


class Time(BaseRequestHandler):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(stamped(data))


def serve(model: str, threads: int, bind: str) -> int:
    """Serve in one of the four ways until a signal comes; the exit code."""
    if model == "tasks":
        return run(Time, bind, shutdown_timeout=1)
    max_threads = {"one": 1, "pool": threads, "threads": None}[model]
    return run(BlockingTime, bind, max_threads=max_threads, shutdown_timeout=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send back what comes, with the time.")
    parser.add_argument("--model", choices=("one", "pool", "threads", "tasks"), default="tasks")
    parser.add_argument("--threads", type=int, default=10, help="how many the pool has")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:8080")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        sys.exit(serve(arguments.model, arguments.threads, arguments.bind))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""An echo whose output is queued for each client, and two simpler servers beside it.

With select() a server keeps a list of its clients, a queue of output for each, and asks
which of them is ready. Here a handler is two tasks with a queue between them: one reads,
the other sends. The queue is bounded, so that a client which sends and never reads is
stopped by its own TCP window, and costs no memory.

    queued       the echo with queues
    blocking     the same for socketserver, a few bytes at a time, in threads
    greet        greets and closes

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/select_echo.py [queued|blocking|greet] [BIND]     (tcp://127.0.0.1:9999)
    nc 127.0.0.1 9999
"""

import argparse
import asyncio
import logging
import socketserver
import sys

from aiosocketserver import BaseRequestHandler, StartError, StreamSocket, run

# Pieces of at most BLOCK_SIZE bytes that wait for one client to read them.
QUEUE_SIZE = 64
BLOCK_SIZE = 1024


class QueuedEcho(BaseRequestHandler):
    async def handle(self) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_SIZE)
        # When one of the two fails, because the client has gone, the other one is cancelled.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send_from(queue, self.request))
            while data := await self.request.recv(BLOCK_SIZE):
                await queue.put(data)
            await queue.put(b"")


async def send_from(queue: asyncio.Queue[bytes], sock: StreamSocket) -> None:
    """Send what is in the queue, up to an empty piece."""
    while data := await queue.get():
        await sock.sendall(data)


class BlockingEcho(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(8):
            self.request.sendall(data)


class Greet(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"good day\n")


HANDLERS: dict[str, type[socketserver.BaseRequestHandler] | type[BaseRequestHandler]] = {
    "queued": QueuedEcho,
    "blocking": BlockingEcho,
    "greet": Greet,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Send back what comes.")
    parser.add_argument("handler", nargs="?", choices=HANDLERS, default="queued")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        sys.exit(run(HANDLERS[arguments.handler], arguments.bind, shutdown_timeout=1))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""A server that upper-cases what it gets, on each of the four kinds of socket.

A stream handler has lines to read; a datagram handler has one datagram, and what it
writes is the answer. The server class decides what the socket is.

Start one of these, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/upper.py tcp [HOST:PORT]           nc 127.0.0.1 9998
    python examples/upper.py udp [HOST:PORT]           nc -u 127.0.0.1 9998
    python examples/upper.py unix [PATH]               nc -U /tmp/upper.sock
    python examples/upper.py unix-datagram [PATH]      nc -uU /tmp/upper.sock
"""

import argparse
import asyncio
import signal
import sys

from aiosocketserver import (
    DatagramRequestHandler,
    StreamRequestHandler,
    TCPServer,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)

try:
    import uvloop
except ImportError:
    new_event_loop = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop


class UpperLines(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line.upper())


class UpperDatagram(DatagramRequestHandler):
    async def handle(self) -> None:
        # Both files are in memory, so there is nothing to await.
        self.wfile.write(self.rfile.read().upper())


def make_server(kind: str, address: str | None) -> TCPServer:
    """The server for one of the four kinds of socket; every server class derives from TCPServer."""
    if kind == "unix":
        return UnixStreamServer(address or "/tmp/upper.sock", UpperLines, shutdown_timeout=1)
    if kind == "unix-datagram":
        return UnixDatagramServer(address or "/tmp/upper.sock", UpperDatagram, shutdown_timeout=1)
    host, _, port = (address or "127.0.0.1:9998").rpartition(":")
    if kind == "udp":
        return UDPServer((host, int(port)), UpperDatagram, shutdown_timeout=1)
    return TCPServer((host, int(port)), UpperLines, shutdown_timeout=1)


async def serve(server: TCPServer, kind: str) -> None:
    """Serve until SIGINT or SIGTERM; `async with` then lets the handlers end."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with server:
        await server.start_serving()
        address = server.server_address
        if isinstance(address, tuple):
            address = f"{address[0]} {address[1]}"
        print(f"upper-casing on {kind} {address}, on {type(loop).__module__}")
        option = {"tcp": "", "udp": "-u ", "unix": "-U ", "unix-datagram": "-uU "}[kind]
        print(f"to talk to it: nc {option}{address}", flush=True)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Upper-case what comes.")
    parser.add_argument("kind", choices=("tcp", "udp", "unix", "unix-datagram"))
    parser.add_argument("address", nargs="?", help="HOST:PORT, or the path of a Unix socket")
    arguments = parser.parse_args()
    try:
        server = make_server(arguments.kind, arguments.address)
    except (OSError, ValueError) as error:
        sys.exit(f"cannot serve there: {error}")
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(server, arguments.kind))


if __name__ == "__main__":
    main()

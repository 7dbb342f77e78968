"""A server that sends back in upper case what it gets, on each of the four kinds of socket.

The handlers are a coroutine, or one made for socketserver that runs in threads or in
children. They answer each piece as it comes, as servers in tutorials do: nothing tells
where a message ends.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/upper.py [--in tasks|threads|children] [BIND]

    tcp://127.0.0.1:9999 (the default)     nc 127.0.0.1 9999
    udp://127.0.0.1:9999                   nc -u 127.0.0.1 9999
    unix:///tmp/upper.sock                 nc -U /tmp/upper.sock
    unix-dgram:///tmp/upper.sock           nc -uU /tmp/upper.sock
"""

import argparse
import functools
import logging
import socketserver
import sys
from typing import Any

import aiosocketserver
from aiosocketserver import StartError, run

logger = logging.getLogger("upper")

STREAM_SERVERS: dict[tuple[str, str], type[aiosocketserver.TCPServer]] = {
    ("threads", "tcp"): aiosocketserver.ThreadingTCPServer,
    ("threads", "unix"): aiosocketserver.ThreadingUnixStreamServer,
    ("children", "tcp"): aiosocketserver.ForkingTCPServer,
    ("children", "unix"): aiosocketserver.ForkingUnixStreamServer,
}
DATAGRAM_SERVERS: dict[tuple[str, str], type[aiosocketserver.UDPServer]] = {
    ("threads", "udp"): aiosocketserver.ThreadingUDPServer,
    ("threads", "unix-dgram"): aiosocketserver.ThreadingUnixDatagramServer,
    ("children", "udp"): aiosocketserver.ForkingUDPServer,
    ("children", "unix-dgram"): aiosocketserver.ForkingUnixDatagramServer,
}


class Upper(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        try:
            while data := await self.request.recv(1024):
                await self.request.sendall(data.upper())
        except ConnectionResetError:
            logger.info("%s reset the connection", self.client_address)


class LegacyUpper(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(1024):
                self.request.sendall(data.upper())
        except ConnectionResetError:
            logger.info("%s reset the connection", self.client_address)


class UpperDatagram(aiosocketserver.DatagramRequestHandler):
    async def handle(self) -> None:
        # Both files are in memory, so there is nothing to await.
        self.wfile.write(self.rfile.read().upper())


class LegacyUpperDatagram(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


def target(way: str, kind: str) -> Any:
    """What `run` serves: a coroutine handler, or what makes a server for a legacy one."""
    datagrams = kind in ("udp", "unix-dgram")
    if way == "tasks":
        return UpperDatagram if datagrams else Upper
    if datagrams:
        server = DATAGRAM_SERVERS[way, kind]
        return functools.partial(server, RequestHandlerClass=LegacyUpperDatagram)
    return functools.partial(STREAM_SERVERS[way, kind], RequestHandlerClass=LegacyUpper)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send back in upper case what comes.")
    parser.add_argument(
        "--in", dest="way", choices=("tasks", "threads", "children"), default="tasks"
    )
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    arguments = parser.parse_args()
    kind = arguments.bind.partition("://")[0]
    if kind not in ("tcp", "udp", "unix", "unix-dgram"):
        parser.error(f"BIND begins with tcp://, udp://, unix:// or unix-dgram://: {arguments.bind}")
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        sys.exit(run(target(arguments.way, kind), arguments.bind, shutdown_timeout=1))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

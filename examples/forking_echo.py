"""An echo from a child process: each connection has one, whose number is in the answers.

The handler is as it is written for socketserver. The children are forked and reaped by
the server, which waits on an event loop; there are at most `max_children` at once.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/forking_echo.py [BIND]        (tcp://127.0.0.1:9999)
    nc 127.0.0.1 9999
"""

import argparse
import functools
import logging
import os
import socketserver
import sys

from aiosocketserver import ForkingMixIn, StartError, TCPServer, run


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.request.sendall(b"process %d heard: %b" % (os.getpid(), data))


class EchoServer(ForkingMixIn, TCPServer):
    """The mix-in comes first, as in socketserver."""

    max_children = 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Send back what comes, from a child process.")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    make_server = functools.partial(EchoServer, RequestHandlerClass=Echo)
    try:
        sys.exit(run(make_server, arguments.bind, shutdown_timeout=1))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

"""An echo from threads: each connection has one, whose name is in the answers.

The handler is as it is written for socketserver, and `run` serves such a handler in
threads. A thread whose client has gone serves the next one, under a new name.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/threading_echo.py [BIND]        (tcp://127.0.0.1:9999)
    nc 127.0.0.1 9999
"""

import argparse
import logging
import socketserver
import sys
import threading

from aiosocketserver import StartError, run


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        name = threading.current_thread().name.encode()
        while data := self.request.recv(1024):
            self.request.sendall(name + b": " + data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send back what comes, from a thread.")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        sys.exit(run(Echo, arguments.bind, shutdown_timeout=1))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

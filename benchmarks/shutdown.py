"""Measure the time from `shutdown()` to its return, of compat and of socketserver, in turns."""

import argparse
import platform
import random
import socket
import socketserver
import statistics
import threading
import time
from typing import Any

from aiosocketserver import compat

# Of serve_forever(), by default: how often socketserver looks whether it shall stop.
POLL_INTERVAL = 0.5


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def milliseconds(module: Any) -> float:
    """From `shutdown()` to its return, at any moment of a server's idling."""
    with module.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"\n")
            client.recv(1)
        time.sleep(random.uniform(0, POLL_INTERVAL))
        start = time.perf_counter()
        server.shutdown()
        elapsed = time.perf_counter() - start
        thread.join()
    return elapsed * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21, help="%(default)s")
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {"compat": [], "socketserver": []}
    for _ in range(arguments.rounds):
        times["compat"].append(milliseconds(compat))
        times["socketserver"].append(milliseconds(socketserver))
    print(f"Python {platform.python_version()}, {arguments.rounds} rounds")
    for name, values in times.items():
        print(f"  {name:<14}median {statistics.median(values):8.2f} ms  most {max(values):8.2f} ms")


if __name__ == "__main__":
    main()

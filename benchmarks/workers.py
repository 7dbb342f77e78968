"""Measure one worker against two, and a shared listening socket against SO_REUSEPORT, in turns."""

import argparse
import contextlib
import os
import platform
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# A request that computes for about a millisecond, and one that does next to nothing.
APPLICATION = """
import hashlib, os
from aiosocketserver import StreamRequestHandler

class Computes(StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            hashlib.pbkdf2_hmac("sha256", line, b"salt", 2000)
            await self.wfile.write(b"%d\\n" % os.getpid())

class Answers(StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(b"%d\\n" % os.getpid())
"""

WAYS = {
    "1 process": [],
    "2 workers, one socket": ["--workers", "2"],
    "2 workers, SO_REUSEPORT": ["--workers", "2", "--allow-reuse-port"],
}


@contextlib.contextmanager
def served(folder: Path, handler: str, arguments: list[str]) -> Generator[int]:
    """The port of a service."""
    (folder / "measured.py").write_text(APPLICATION)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "aiosocketserver", "serve", f"measured:{handler}"),
            *("--bind", "tcp://127.0.0.1:0", *arguments),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.search(r"tcp://127\.0\.0\.1:(\d+)", line)
        if match is None:
            sys.exit(f"the service did not start: {line}{process.stderr.read()}")
        yield int(match[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def requests_per_second(port: int, connections: int, seconds: float) -> float:
    """Of lock-step requests on some connections, each in a thread that mostly waits."""
    done = threading.Event()
    counts: list[int] = []

    def ask() -> None:
        count = 0
        with socket.create_connection(("127.0.0.1", port)) as sock:
            while not done.is_set():
                sock.sendall(b"?\n")
                sock.recv(100)
                count += 1
        counts.append(count)

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    time.sleep(seconds)
    done.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begun)


def share_of_the_busier(port: int, connections: int) -> float:
    """Which part of connections that come one after another, and stay, one worker gets."""
    served: Counter[bytes] = Counter()
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(b"?\n")
            served[sock.recv(100)] += 1
    return max(served.values()) / connections


def connections_per_second(port: int, seconds: float) -> float:
    """Of connect, one request, close."""
    count = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"?\n")
            sock.recv(100)
        count += 1
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each, %(default)s")
    arguments = parser.parse_args()
    figures: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for way, flags in WAYS.items():
                with served(Path(folder), "Computes", flags) as port:
                    computing = requests_per_second(port, 16, arguments.seconds)
                with served(Path(folder), "Answers", flags) as port:
                    share = share_of_the_busier(port, 200)
                    connecting = connections_per_second(port, arguments.seconds / 2)
                figures[way].append((computing, connecting, share))
    print(f"Python {platform.python_version()}, {arguments.rounds} rounds, medians")
    print(f"{'':<26}{'computing':>12}{'connecting':>12}{'the busier of two has':>24}")
    for way, rounds in figures.items():
        columns = zip(*rounds, strict=True)
        computing, connecting, share = (statistics.median(column) for column in columns)
        print(f"{way:<26}{computing:>10.0f}/s{connecting:>10.0f}/s{share:>23.0%}")


if __name__ == "__main__":
    main()

"""Measure the four models of examples/time_server.py with 1, 100 and 1,000 clients. Linux only.

Each client connects, sends some messages with a pause after each answer, as somebody who
reads them, and closes. All of them begin at once.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MODELS = {
    "one": "one connection at a time",
    "pool": "ten threads",
    "threads": "a thread for each",
    "tasks": "a task for each",
}


@dataclass
class Figures:
    """What one model did with some clients."""

    median_wait: float
    longest_wait: float
    seconds: float
    cpu: float
    threads: int
    memory: float

    def row(self) -> str:
        return (
            f"{self.median_wait * 1000:,.0f} ms | {self.longest_wait * 1000:,.0f} ms | "
            f"{self.seconds:.2f} s | {self.cpu:.2f} s | {self.threads:,} | {self.memory:.0f} MiB"
        )


class Server:
    """A time server in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.port = port
        self._proc = Path(f"/proc/{process.pid}")

    def status(self, name: str) -> int:
        (value,) = re.findall(
            rf"^{name}:\s+(\d+)", (self._proc / "status").read_text(), re.MULTILINE
        )
        return int(value)

    def cpu(self) -> float:
        """Seconds of processor time that it has used."""
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(model: str) -> Generator[Server]:
    process = subprocess.Popen(
        [sys.executable, "examples/time_server.py", "--model", model, "tcp://127.0.0.1:0"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        match = re.search(r"tcp://127\.0\.0\.1:(\d+)", line)
        if match is None:
            sys.exit(f"the server did not start: {line}{process.stderr.read()}")
        yield Server(process, int(match[1]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


async def visit(port: int, messages: int, pause: float) -> float:
    """Be one client; seconds until its first answer."""
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    waited = 0.0
    for _ in range(messages):
        writer.write(b"hello")
        if not await reader.read(1024):
            raise ConnectionError("the server has closed the connection")
        waited = waited or time.perf_counter() - begun
        await asyncio.sleep(pause)
    writer.close()
    await writer.wait_closed()
    return waited


async def measure(model: str, clients: int, messages: int, pause: float) -> Figures:
    with serving(model) as server:
        threads = 0
        begun, cpu = time.perf_counter(), server.cpu()
        visits = asyncio.gather(*(visit(server.port, messages, pause) for _ in range(clients)))
        while not visits.done():
            await asyncio.wait([visits], timeout=0.02)
            threads = max(threads, server.status("Threads"))
        seconds = time.perf_counter() - begun
        waits = await visits
        return Figures(
            statistics.median(waits),
            max(waits),
            seconds,
            server.cpu() - cpu,
            threads,
            server.status("VmHWM") / 1024,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--messages", type=int, default=5, help="of each client; %(default)s")
    parser.add_argument("--pause", type=float, default=0.01, help="seconds; %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="%(default)s")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    # The median of the rounds by the time that all took, which the other figures go with.
    rounds: dict[tuple[int, str], list[Figures]] = {}
    for _ in range(arguments.rounds):
        for clients in arguments.clients:
            for model in MODELS:
                figures = asyncio.run(measure(model, clients, arguments.messages, arguments.pause))
                rounds.setdefault((clients, model), []).append(figures)
    print(f"Python {platform.python_version()}; {arguments.messages} messages for each client,")
    print(f"{arguments.pause:g} s after each answer; the median of {arguments.rounds} rounds.\n")
    print(
        "| clients | model | first answer, median | longest | all done | CPU | threads | memory |"
    )
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (clients, model), each in rounds.items():
        each.sort(key=lambda figures: figures.seconds)
        print(f"| {clients:,} | {MODELS[model]} | {each[len(each) // 2].row()} |")


if __name__ == "__main__":
    main()

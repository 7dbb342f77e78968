"""One server process, and what is measured of it from outside."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .peers import Peer
from .programs import FOLDER
from .works import Work

# Bytes of the one message that an idle connection has sent: a handler still holds it.
HELD_SIZE = 32


class Failed(Exception):
    """A server did not do what it was asked for. The text says who, and what."""


@dataclass(frozen=True)
class Cpus:
    """One CPU for the servers and another one for the load; the same if there is but one."""

    server: int
    load: int


def choose_cpus() -> Cpus:
    cpus = sorted(os.sched_getaffinity(0))
    return Cpus(server=cpus[0], load=cpus[-1])


@contextmanager
def on_cpu(cpu: int) -> Generator[None]:
    """Processes that are started in here stay on one CPU, with all their threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Sample:
    """One round. Times are seconds, memory is bytes."""

    rate: float
    cpu_time: float
    p50: float
    p99: float
    lost: int
    memory: int


class ServerProcess:
    """A peer that serves one role in a process of its own."""

    def __init__(self, peer: Peer, work: Work, cpus: Cpus, load: str, folder: Path) -> None:
        self.peer = peer
        self.work = work
        self._cpus = cpus
        self._load = load
        path = str(folder / f"{abs(hash(peer.name))}") if work.unix else ""
        self._errors = (folder / "errors").open("w+")
        command = peer.start_command(work.role, path, work.size)
        with on_cpu(cpus.server):
            self._process = subprocess.Popen(
                command,
                cwd=FOLDER.parent,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                # Go's: one goroutine runs at a time.
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        assert self._process.stdout is not None
        self._target = self._process.stdout.readline().strip()
        if not self._target:
            raise self._failure("did not start")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _failure(self, what: str) -> Failed:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        said = f" ({lines[-1]})" if lines else ""
        return Failed(f"{self.peer.name}: {what}{said}")

    def cpu_time(self) -> float:
        """Seconds, user and system, that all its threads have used, also those that ended."""
        # The clock of another process, as clock_getcpuclockid(3) makes its number.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def memory(self) -> int:
        """Bytes of its resident set."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def measure(self, seconds: float) -> Sample:
        """Put it under load once."""
        work = self.work
        with self._load_process(work.how, work.connections, work.size, seconds) as load:
            # What it takes to open the connections, and to close them, is not counted.
            self._read_line(load)
            before = self.cpu_time()
            assert load.stdin is not None
            load.stdin.write("\n")
            load.stdin.flush()
            told = json.loads(self._read_line(load))
            after, memory = self.cpu_time(), self.memory()
        return Sample(
            # Rounded to what a clock can tell: the figures are kept in the repository.
            rate=round(told["requests"] / told["seconds"], 1),
            cpu_time=round((after - before) / told["requests"], 9),
            p50=round(told["p50"], 7),
            p99=round(told["p99"], 7),
            lost=told["lost"],
            memory=memory,
        )

    @contextmanager
    def holding(self) -> Generator[int]:
        """Hold the connections of the work meanwhile; gives the bytes that each one takes."""
        before = self.memory()
        with self._load_process("hold", self.work.held, HELD_SIZE, 0) as load:
            self._read_line(load)
            yield (self.memory() - before) // self.work.held

    def _load_process(
        self, how: str, connections: int, size: int, seconds: float
    ) -> subprocess.Popen[str]:
        """The load generator, which ends with its standard input."""
        counts = (connections, size, self.work.depth, seconds)
        with on_cpu(self._cpus.load):
            return subprocess.Popen(
                [self._load, how, self._target, *map(str, counts)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

    def _read_line(self, load: subprocess.Popen[str]) -> str:
        assert load.stdout is not None
        assert load.stderr is not None
        line = load.stdout.readline()
        if not line:
            raise self._failure(load.stderr.read().strip())
        return line

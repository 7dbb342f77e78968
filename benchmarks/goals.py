"""What this package sets out to reach: ratios to others, in the same run."""

from __future__ import annotations

from dataclasses import dataclass

from .results import Results
from .server_process import Sample


@dataclass(frozen=True)
class Goal:
    """`here` has to be `at_least` as many times as good as `there` in one figure."""

    title: str
    work: str
    here: str
    there: str
    at_least: float
    figure: str = "rate"

    def measured(self, results: Results) -> float | None:
        """How many times as good it was; None if it was not measured."""
        work = results.works.get(self.work)
        if work is None:
            return None
        if self.figure == "held":
            ours, theirs = work.peers.get(self.here), work.peers.get(self.there)
            if ours is None or theirs is None or not ours.held or not theirs.held:
                return None
            return theirs.held / ours.held
        if self.figure == "p99":
            return work.ratio(self.there, self.here, _p99)
        return work.ratio(self.here, self.there, _rate)


def _rate(sample: Sample) -> float:
    return sample.rate


def _p99(sample: Sample) -> float:
    return sample.p99


def _here(loop: str, *, files: bool = False) -> str:
    return f"aiosocketserver{' files' if files else ''}, {loop}"


def _streams(loop: str, *, lines: bool = False) -> str:
    return f"asyncio streams{' by line' if lines else ''}, {loop}"


def _streams_goals() -> list[Goal]:
    """Against asyncio streams, by bare sockets and by files, on each loop."""
    goals: list[Goal] = []
    for loop, echo, large in (("asyncio", 1.5, 1.6), ("uvloop", 1.35, 2.0)):
        for files, way in ((False, "sockets"), (True, "files")):
            here, there = _here(loop, files=files), _streams(loop, lines=files)
            goals += [
                Goal(f"echo of 1 KiB, 10 connections, {way}", "echo-1k-10", here, there, echo),
                Goal(f"echo of 64 KiB, 10 connections, {way}", "echo-64k-10", here, there, large),
            ]
        goals.append(Goal("pipelined lines", "lines", _here(loop), _streams(loop), 3.5))
    return goals


def all_goals() -> list[Goal]:
    """Every goal, in the order of the report."""
    uvloop, asyncio = _here("uvloop"), _here("asyncio")
    ahead = (
        "gevent",
        "trio",
        "anyio, uvloop",
        "tornado, uvloop",
        "curio",
        "EasyNetwork, uvloop",
    )
    threads = "aiosocketserver.compat threads, asyncio"
    greenlets = "aiosocketserver greenlets, uvloop"
    return [
        *_streams_goals(),
        Goal(
            "echo of 1 KiB, 10 connections",
            "echo-1k-10",
            uvloop,
            "asyncio protocol, uvloop",
            0.75,
        ),
        Goal("echo of 1 KiB, 10 connections", "echo-1k-10", uvloop, "Go, one core", 0.9),
        *(
            Goal("echo of 1 KiB, 10 connections", "echo-1k-10", uvloop, there, 1.0)
            for there in ahead
        ),
        Goal("echo of 1 KiB, 1,000 connections", "echo-1k-1000", uvloop, "socketserver", 3.0),
        Goal(
            "the same, p99",
            "echo-1k-1000",
            uvloop,
            "socketserver",
            10.0,
            figure="p99",
        ),
        Goal("connect, request, close", "connects", asyncio, _streams("asyncio"), 1.8),
        Goal("connect, request, close", "connects", uvloop, _streams("uvloop"), 1.3),
        *(
            Goal(
                "memory of an idle connection, with files",
                "idle",
                _here(loop, files=True),
                _streams(loop),
                2.0,
                figure="held",
            )
            for loop in ("asyncio", "uvloop")
        ),
        Goal("UDP echo", "datagrams", asyncio, "asyncio protocol, asyncio", 5.0),
        Goal("UDP echo", "datagrams", asyncio, "socketserver", 1.1),
        Goal("UDP echo", "datagrams", uvloop, "asyncio protocol, uvloop", 0.8),
        Goal("TLS echo of 1 KiB", "tls", asyncio, _streams("asyncio"), 1.5),
        Goal("TLS echo of 1 KiB", "tls", uvloop, _streams("uvloop"), 1.5),
        Goal("legacy threads, connect, request, close", "connects", threads, "socketserver", 2.0),
        Goal("legacy threads, echo", "echo-1k-10", threads, "socketserver", 0.97),
        Goal("greenlets, echo of 1 KiB", "echo-1k-10", greenlets, "gevent", 1.5),
        Goal("greenlets, echo of 1 KiB", "echo-1k-10", greenlets, "socketserver", 1.8),
        Goal("greenlets, connect, request, close", "connects", greenlets, "socketserver", 2.5),
    ]

"""The report of a run, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .goals import Goal, all_goals
from .results import PeerResult, Results, WorkResult

_MEGABYTE = 1e6


def write_report(results: Results, plots: dict[str, str]) -> str:
    """The whole page. `plots` has a file name for each title."""
    parts = [
        f"# Benchmark report, Python {results.machine['Python']}",
        (
            f"Made by `make bench` on {results.date}, {results.rounds} rounds of "
            f"{results.seconds:g} s for each server and work. "
            "[How to read it](README.md#how-to-read-it)."
        ),
        "## Machine and versions",
        _table(("", ""), results.machine.items()),
        "## Goals",
        _goals(results),
        *(f"![{title}]({file})" for title, file in plots.items()),
    ]
    for work in results.works.values():
        parts += [f"## {work.title}", _work(work)]
        parts += [
            f"* {name}: could not be measured: {peer.failure}"
            for name, peer in work.peers.items()
            if peer.failure
        ]
    if results.lacking:
        parts += ["## Not measured"]
        parts += [_table(("", "lacks"), results.lacking.items())]
    return "\n\n".join(parts) + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _goals(results: Results) -> str:
    rows = [_goal(goal, goal.measured(results)) for goal in all_goals()]
    heads = ("work", "here", "against", "figure", "goal", "measured", "")
    return _table(heads, rows)


def _goal(goal: Goal, ratio: float | None) -> Sequence[str]:
    figure = {"rate": "requests/s", "held": "bytes", "p99": "p99"}[goal.figure]
    if ratio is None:
        told, verdict = "", "not measured"
    else:
        told, verdict = f"{ratio:.2f}", "reached" if ratio >= goal.at_least else "**missed**"
    wanted = f"{goal.at_least:g}"
    return (goal.title, goal.here, goal.there, figure, wanted, told, verdict)


def _work(work: WorkResult) -> str:
    if work.role in ("upload", "download", "sendfile"):
        return _transfer(work)
    heads = ["", "requests/s", "±", "cpu, µs", "p50, µs", "p99, µs", "memory, MB"]
    holds = any(peer.held for peer in work.peers.values())
    if holds:
        heads.append("KiB each")
    if work.role == "datagrams":
        heads.append("lost")
    rows: list[list[str]] = []
    for name, peer in _fastest_first(work):
        row = [
            name,
            f"{peer.rate:,.0f}",
            f"{peer.spread:.0%}",
            f"{peer.cpu_time * 1e6:.1f}",
            f"{peer.p50 * 1e6:,.0f}",
            f"{peer.p99 * 1e6:,.0f}",
            f"{peer.memory / _MEGABYTE:.0f}",
        ]
        if holds:
            row.append(f"{(peer.held or 0) / 1024:.1f}")
        if work.role == "datagrams":
            row.append(f"{peer.lost:,}")
        rows.append(row)
    return _table(heads, rows)


def _transfer(work: WorkResult) -> str:
    rows = [
        (
            name,
            f"{peer.rate * work.size / _MEGABYTE:,.0f}",
            f"{peer.spread:.0%}",
            f"{peer.cpu_time / work.size * 1e9:.2f}",
        )
        for name, peer in _fastest_first(work)
    ]
    return _table(("", "MB/s", "±", "cpu, s/GB"), rows)


def _fastest_first(work: WorkResult) -> list[tuple[str, PeerResult]]:
    return sorted(work.measured().items(), key=lambda item: -item[1].rate)

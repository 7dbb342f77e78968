"""The plots of a report, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .results import PeerResult, Results

OURS, OTHERS = "#c2410c", "#94a3b8"


def draw(results: Results, folder: Path, prefix: str) -> dict[str, str]:
    """Draw what was measured into `folder`; the file name for each title."""
    import matplotlib as mpl

    mpl.use("svg")
    # Text as text, and not as outlines: a tenth of the size.
    mpl.rcParams["svg.fonttype"] = "none"
    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "aiosocketserver"
    files: dict[str, str] = {}
    bars: tuple[tuple[str, str, str, Callable[[PeerResult], float]], ...] = (
        ("echo-1k-10", "Echo of 1 KiB on one core", "requests/s", _rate),
        ("idle", "Memory of an idle connection", "KiB", _held),
        ("connects", "Connect, request, close", "requests/s", _rate),
        ("datagrams", "UDP echo of 512 B", "requests/s", _rate),
    )
    for work, title, unit, figure in bars:
        if work in results.works:
            files[title] = f"{prefix}-{work}.svg"
            peers = results.works[work].measured()
            _draw_bars(
                {name: figure(peer) for name, peer in peers.items()},
                title,
                unit,
                folder / files[title],
            )
    growth = _growth(results)
    if growth:
        title = "CPU for a request, as connections grow"
        files[title] = f"{prefix}-growth.svg"
        _draw_growth(growth, title, folder / files[title])
    return files


def _rate(peer: PeerResult) -> float:
    return peer.rate


def _held(peer: PeerResult) -> float:
    return (peer.held or 0) / 1024


def _draw_bars(values: dict[str, float], title: str, unit: str, path: Path) -> None:
    from matplotlib.figure import Figure

    items = sorted(values.items(), key=lambda item: item[1], reverse=unit != "requests/s")
    names = [name for name, _ in items]
    figure: Any = Figure(figsize=(8, 1 + 0.28 * len(items)), layout="constrained")
    axes = figure.subplots()
    colours = [OURS if name.startswith("aiosocketserver") else OTHERS for name in names]
    bars = axes.barh(names, [value for _, value in items], color=colours)
    axes.bar_label(bars, fmt="{:,.0f}" if unit == "requests/s" else "{:.1f}", padding=3)
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(path, metadata={"Date": None})


# Whose lines show how the cost grows: with all of them nobody could follow one.
GROWING = (
    "aiosocketserver, asyncio",
    "aiosocketserver, uvloop",
    "asyncio streams, asyncio",
    "asyncio streams, uvloop",
    "asyncio protocol, uvloop",
    "gevent",
    "trio",
    "anyio, uvloop",
    "tornado, uvloop",
    "Go, one core",
    "C, epoll",
)


def _growth(results: Results) -> dict[str, list[tuple[int, float]]]:
    """CPU for a request by number of connections, of who could do all of them."""
    lines: dict[str, list[tuple[int, float]]] = {}
    counts = [count for count in (10, 100, 1000, 10_000) if f"echo-1k-{count}" in results.works]
    if len(counts) < 2:
        return lines
    for count in counts:
        measured = results.works[f"echo-1k-{count}"].measured()
        for name in GROWING:
            if name in measured:
                lines.setdefault(name, []).append((count, measured[name].cpu_time * 1e6))
    return lines


def _draw_growth(lines: dict[str, list[tuple[int, float]]], title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    for name, points in sorted(lines.items(), key=lambda line: -line[1][-1][1]):
        ours = name.startswith("aiosocketserver")
        axes.plot(*zip(*points, strict=True), label=name, marker=".", linewidth=2.5 if ours else 1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("connections")
    axes.set_ylabel("µs of the server's CPU")
    axes.set_title(title)
    axes.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})

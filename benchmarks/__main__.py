"""Measure echo and more, here and elsewhere: `python -m benchmarks`, from the root.

Every server in turn does the same work, several rounds of it, in a process of its own.
The load comes from a program in C, which checks every byte of every answer. With two
CPUs or more, servers run on one and the load on another. Linux only.
"""

import argparse
import datetime
import os
import platform
import resource
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .goals import all_goals
from .machine import describe
from .peers import Peer, all_peers
from .plots import draw
from .programs import build, give_up
from .report import write_report
from .results import Results
from .rounds import measure
from .server_process import choose_cpus
from .works import Work, all_works, quick

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5, help="%(default)s")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round: %(default)s")
    parser.add_argument("--works", default="", metavar="NAME,...", help="only these; see --list")
    parser.add_argument(
        "--peers",
        action="append",
        metavar="TEXT",
        help="only those with this in their name; again for more",
    )
    parser.add_argument("--quick", action="store_true", help="a few works, one short round")
    parser.add_argument("--list", action="store_true", help="name works and peers, and end")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write what the repository shows; if not all works are done, into what is there",
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "benchmarks", help="%(default)s"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, and is {arguments.rounds}")
    if arguments.seconds <= 0:
        parser.error(f"--seconds must be above 0, and is {arguments.seconds:g}")
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 0.1
    return arguments


def choose_works(arguments: argparse.Namespace) -> list[Work]:
    works = quick(all_works()) if arguments.quick else all_works()
    if not arguments.works:
        return works
    known = {work.name: work for work in works}
    names = arguments.works.split(",")
    if unknown := [name for name in names if name not in known]:
        give_up(f"--works: {unknown[0]!r} is not one of {', '.join(known)}")
    return [known[name] for name in names]


def choose_peers(peers: list[Peer], arguments: argparse.Namespace) -> list[Peer]:
    if not arguments.peers:
        return peers
    texts: list[str] = arguments.peers
    for text in texts:
        if not any(text in peer.name for peer in peers):
            give_up(f"--peers: no name has {text!r} in it; --list has all names")
    return [peer for peer in peers if any(text in peer.name for text in texts)]


def measure_all(
    works: list[Work], peers: list[Peer], load: str, results: Results, console: Console
) -> None:
    """Do all works, with a bar that shows how far they are."""
    doers = {work.name: [peer for peer in peers if work.fits(peer)] for work in works}
    cpus = choose_cpus()
    columns = (TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        total = sum(map(len, doers.values())) * results.rounds
        task = progress.add_task("", total=total)
        for work in works:

            def on_step(peer: str, work: Work = work) -> None:
                progress.update(task, advance=1, description=f"{work.name}: {peer}")

            results.works[work.name] = measure(
                work,
                doers[work.name],
                rounds=results.rounds,
                seconds=results.seconds,
                cpus=cpus,
                load=load,
                on_step=on_step,
            )
            for name, peer in results.works[work.name].peers.items():
                if peer.failure:
                    progress.console.print(f"{work.name}: {name}: {peer.failure}", markup=False)


def write(results: Results, arguments: argparse.Namespace) -> Path:
    """Write JSON, report and plots; where the report is."""
    version = ".".join(platform.python_version_tuple()[:2])
    prefix = f"python{version}"
    raw = page = arguments.output
    if arguments.publish:
        raw, page = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks"
    for folder in {raw, page}:
        folder.mkdir(parents=True, exist_ok=True)
    figures = raw / f"{prefix}.json"
    if arguments.publish and len(results.works) < len(all_works()) and figures.exists():
        newer, results = results, Results.read(figures)
        results.works.update(newer.works)
    results.write(figures)
    report: Path = page / f"{prefix}.md"
    report.write_text(write_report(results, draw(results, page, prefix)))
    return report


def main() -> None:
    arguments = parse_arguments()
    if sys.platform != "linux":
        give_up("the load generator uses epoll, so it needs Linux")
    works = choose_works(arguments)
    # A descriptor for each connection, here for the servers, which inherit it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        programs = build(Path(folder))
        peers = choose_peers(all_peers(programs), arguments)
        if arguments.list:
            console.print("\n".join(work.name for work in works))
            console.print("\n".join(peer.name for peer in peers))
            return
        lacking = {peer.name: lack for peer in peers if (lack := peer.lacks())}
        if programs.go is None:
            lacking["Go, one core"] = "a Go toolchain"
        if not programs.tls:
            lacking["every server with TLS"] = "OpenSSL's headers (libssl-dev)"
            works = [work for work in works if not work.encrypted]
        results = Results(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=describe(),
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            lacking=lacking,
        )
        able = [peer for peer in peers if peer.name not in lacking]
        if len(os.sched_getaffinity(0)) < 2:
            console.print("one CPU for servers and load: only the CPU times tell anything")
        try:
            measure_all(works, able, programs.load, results, console)
        except KeyboardInterrupt:
            if not results.works:
                raise
            console.print("interrupted: the report has the works that were done")
    report = write(results, arguments)
    for goal in all_goals():
        ratio = goal.measured(results)
        if ratio is not None:
            verdict = "reached" if ratio >= goal.at_least else "missed "
            console.print(
                f"{verdict} {ratio:6.2f} of {goal.at_least:g}: {goal.title}: "
                f"{goal.here} against {goal.there}",
                markup=False,
                highlight=False,
            )
    console.print(f"the report: {report}", markup=False, highlight=False, soft_wrap=True)
    if any(
        peer.failure and name.startswith("aiosocketserver")
        for work in results.works.values()
        for name, peer in work.peers.items()
    ):
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Run tests of other projects with compat in the place of socketserver.

`foreign_tests.py [SUITE...]`, under the Python of .venv/foreign (`make test-foreign`): every test
of Django's `servers`, of fakeredis' server and of Werkzeug that passes with the standard library's
socketserver has to pass with compat, on asyncio and on uvloop. A SUITE is the name of one of them.

Whoever serves a request is written down by the process that does (foreign/every_process.py): a run
fails in which socketserver has served one, or in which compat has served none. Nothing leaves this
machine; a test that tries fails.
"""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = ROOT / "tools" / "foreign"
# Of each project the source distribution, which has the tests.
SOURCES = Path(sys.prefix) / "src"

# They wait more than they compute.
AT_ONCE = 4
# Seconds for one test, for pytest-timeout, and for one run of a suite.
TEST_LIMIT = 40
RUN_LIMIT = 240

STANDARD = "socketserver"
LOOPS = ["asyncio", "uvloop"]


@dataclass(frozen=True)
class Suite:
    """Tests of a project: its source distribution, the folder there, and Python's arguments."""

    name: str
    source: str
    folder: str
    # With socketserver at least so many pass, or else something is wrong with the environment.
    least: int
    arguments: list[str]


# The plugins of the environment are for one suite, and change another.
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "--timeout", str(TEST_LIMIT)]
WERKZEUG = [
    "-p",
    "no:asyncio",
    # It takes longer than all others together, and has no server.
    "--deselect=tests/test_routing.py::test_long_build",
]
FAKEREDIS = ["-p", "redis_stand_in", "test/test_tcp_server"]
# The real server's, and those of the servers that the tests start.
REDIS_PORTS = [6390, 19000, 19100]
DJANGO = ["runtests.py", "servers", "--settings=django_settings", "--parallel=1"]
SUITES = [
    Suite("Werkzeug", "werkzeug-3.1.9", ".", 970, [*PYTEST, *WERKZEUG]),
    Suite("fakeredis", "fakeredis-2.41.0", ".", 18, [*PYTEST, *FAKEREDIS]),
    Suite("Django", "django-5.2.19", "tests", 27, DJANGO),
]


@dataclass
class Outcome:
    """What a run printed, what became of its tests by name, who served its requests."""

    output: str
    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    # By module and loop.
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    outside: list[str] = field(default_factory=list)


def watch_every_process() -> None:
    """Have each process of this environment import foreign/every_process.py."""
    (site_packages,) = Path(sys.prefix).glob("lib/python*/site-packages")
    # Behind that of the editable installation, in alphabetical order, for it imports the package.
    (site_packages / "foreign_tests.pth").write_text(f"{FOREIGN}\nimport every_process\n")


def unpack(suite: Suite) -> None:
    if not (SOURCES / suite.source).is_dir():
        with tarfile.open(SOURCES / f"{suite.source}.tar.gz") as archive:
            archive.extractall(SOURCES, filter="data")


def free_ports(count: int) -> int:
    """The first of some neighbours that nobody uses, nor will: clients get higher ones (ip(7))."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(port, port + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            return port


def run(suite: Suite, way: str) -> Outcome:
    """Run a suite with socketserver, or with compat on a loop."""
    command = [sys.executable]
    if way != STANDARD:
        command += ["-m", "aiosocketserver.compat", "--loop", way]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        log, report, port = folder / "log", folder / "report.xml", free_ports(len(REDIS_PORTS))
        command += suite.arguments
        if "pytest" in command:
            command += ["--junit-xml", str(report)]
        environment = {
            **os.environ,
            "FOREIGN_WAY": way,
            "FOREIGN_LOG": str(log),
            "FOREIGN_REPORT": str(report),
            "FOREIGN_PORT": str(port),
            "PYTHONPATH": str(FOREIGN),
            "TMPDIR": temporary,
            "no_proxy": "*",
        }
        source = SOURCES / suite.source
        if suite.name == "fakeredis":
            source = copy_with_ports(source, folder / suite.source, port)
        outcome = Outcome(output(command, source / suite.folder, environment))
        read_report(outcome, report)
        read_log(outcome, log)
        return outcome


def copy_with_ports(source: Path, copy: Path, port: int) -> Path:
    """A copy with other ports in the place of fakeredis' own: several runs are on their way."""
    shutil.copytree(source, copy)
    for path in copy.rglob("*.py"):
        text = path.read_text()
        for number, fixed in enumerate(REDIS_PORTS, port):
            text = re.sub(rf"\b{fixed}\b", str(number), text)
        path.write_text(text)
    return copy


def output(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command prints, to its end or until its time is over."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=RUN_LIMIT,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as error:
        printed = error.output or b""
        return f"{printed.decode(errors='replace')}\nnot done within {RUN_LIMIT} seconds\n"


def read_report(outcome: Outcome, report: Path) -> None:
    if not report.exists():
        return
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.attrib['classname']}.{case.attrib['name']}"
        problem = case.find("failure") if case.find("error") is None else case.find("error")
        if problem is not None:
            outcome.failed[name] = problem.text or ""
        elif case.find("skipped") is None:
            outcome.passed.add(name)
    # One whose tear-down fails has passed as well.
    outcome.passed -= outcome.failed.keys()


def read_log(outcome: Outcome, log: Path) -> None:
    for line in log.read_text().splitlines() if log.exists() else ():
        kind, *words = line.split(" ", 2)
        if kind == "request":
            outcome.requests[words[0], words[1]] += 1
        else:
            outcome.outside.append(" ".join(words))


def check_who_served(outcome: Outcome, way: str) -> list[str]:
    """What is wrong with how the requests of a run were served, whatever became of its tests."""
    expected = ("socketserver", "asyncio") if way == STANDARD else ("compat", way)
    wrong = [
        f"{count} requests were served by {module}, with {loop} loaded"
        for (module, loop), count in outcome.requests.items()
        if (module, loop) != expected
    ]
    if not outcome.requests[expected]:
        wrong.append(f"no request was served by {' on '.join(expected)}")
    wrong += [f"a test went out of this machine: {address}" for address in outcome.outside]
    return wrong


def compare(suite: Suite, way: str, standard: Outcome, ours: Outcome) -> dict[str, str]:
    """The tests that fail with compat and not with socketserver, and why."""
    if not ours.passed:
        return dict.fromkeys(standard.passed, "no test has passed")
    suspects = standard.passed - ours.passed
    if suspects:
        # One that another program on this machine has disturbed passes at the second time.
        suspects -= run(suite, way).passed
    return {name: ours.failed.get(name, "it was not run") for name in sorted(suspects)}


def report_suite(suite: Suite, outcomes: dict[str, Outcome]) -> tuple[int, int]:
    """Print a line for each way to run a suite: how many tests passed and failed with compat."""
    standard = outcomes[STANDARD]
    troubles = check_who_served(standard, STANDARD)
    if len(standard.passed) < suite.least:
        troubles.append(f"{len(standard.passed)} tests pass, and not {suite.least} or more")
    if troubles:
        print(f"{suite.source} with socketserver: FAILED", *troubles, standard.output, sep="\n")
        return 0, 1
    passed = failed = 0
    for way in LOOPS:
        ours = outcomes[way]
        worse = compare(suite, way, standard, ours)
        troubles = check_who_served(ours, way)
        passed += len(standard.passed) - len(worse)
        failed += len(worse) + len(troubles)
        verdict = f"{len(worse)} FAILED" if worse else "FAILED" if troubles else "all pass"
        print(
            f"{suite.source}, compat on {way}: {verdict}, of {len(standard.passed)} tests; "
            f"{ours.requests.total()} requests",
            *troubles,
            sep="\n",
            flush=True,
        )
        if not ours.passed:
            print(ours.output)
            continue
        for name, reason in worse.items():
            print(f"{name}\n{reason}\n")
    for name, reason in standard.failed.items():
        print(f"{suite.source}: not compared, it fails with socketserver: {name}\n{reason}")
    return passed, failed


def main(names: list[str]) -> int:
    suites = [suite for suite in SUITES if not names or suite.name in names]
    if len(suites) < len(names) or not SOURCES.is_dir():
        print(__doc__, file=sys.stderr)
        return 2
    watch_every_process()
    for suite in suites:
        unpack(suite)
    # All at once: each run has ports and a folder of its own.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {
            (suite.name, way): pool.submit(run, suite, way)
            for suite in suites
            for way in (STANDARD, *LOOPS)
        }
    totals = [
        report_suite(suite, {way: runs[suite.name, way].result() for way in (STANDARD, *LOOPS)})
        for suite in suites
    ]
    passed, failed = (sum(numbers) for numbers in zip(*totals, strict=True))
    # In a form that the readers of test output know.
    print(f"test-foreign: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The benchmarks run, and notice a wrong answer; what they measure is not tested."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.programs import has_openssl
from tests.page_support import Page

PAGE = Page("docs/benchmarks/README.md")

# Each run starts up to 32 servers one after the other.
pytestmark = pytest.mark.timeout(320)

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300

BENCHMARKS = [sys.executable, "-m", "benchmarks"]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def load(tmp_path: Path, require_program: Callable[[str], str]) -> str:
    program = str(tmp_path / "load")
    sources = sorted(map(str, ROOT.glob("benchmarks/load/*.c")))
    command = [require_program("cc"), "-O2", "-Wall", "-Wextra", "-Werror", "-o", program]
    done = run([*command, *sources, "-lm"])
    assert (done.returncode, done.stderr) == (0, "")
    return program


@pytest.mark.parametrize(
    ("work", "peers"),
    [
        *((work, "") for work in ("echo-1k-10", "lines", "connects", "tls")),
        # Echo, as above; what is new is that clients are held, by the load.
        ("idle", "streams"),
        *((work, "") for work in ("datagrams", "unix", "download")),
    ],
)
def test_every_server_does_its_work(
    work: str,
    peers: str,
    tmp_path: Path,
    require_program: Callable[[str], str],
    skip_for_want_of: Callable[[str], None],
) -> None:
    compiler = require_program("cc")
    if work == "tls" and not has_openssl(compiler):
        skip_for_want_of("OpenSSL's headers are not installed")
    options = ["--quick", "--works", work, "--peers", peers, "--output", str(tmp_path)]
    done = run([*BENCHMARKS, *options])
    assert (done.returncode, done.stderr) == (0, "")
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    results = json.loads((tmp_path / f"{version}.json").read_text())
    # A Go toolchain is not asked for, and curio is too old for newer Pythons.
    may_lack = {"Go, one core"} | ({"curio"} if sys.version_info >= (3, 12) else set())
    assert set(results["lacking"]) <= may_lack
    done_by = results["works"][work]["peers"]
    assert {name: peer["failure"] for name, peer in done_by.items() if peer["failure"]} == {}
    assert all(sample["rate"] > 0 for peer in done_by.values() for sample in peer["samples"])
    report = (tmp_path / f"{version}.md").read_text()
    for name in done_by:
        assert f"| {name} | " in report
    for plot in tmp_path.glob("*.svg"):
        assert f"({plot.name})" in report


@PAGE.executes()
@pytest.mark.parametrize("command", PAGE.blocks("sh")[0].splitlines())
def test_the_commands_of_its_page_would_run(command: str) -> None:
    make, bench, *rest = shlex.split(command, comments=True)
    assert (make, bench) == ("make", "bench")
    arguments = [word for text in rest for word in text.removeprefix("ARGS=").split()]
    # The list of what there is comes when works and peers have been chosen.
    done = run([*BENCHMARKS, *arguments, "--list"])
    assert (done.returncode, done.stderr) == (0, "")


def test_list_names_works_and_peers() -> None:
    done = run([*BENCHMARKS, "--list"])
    assert done.returncode == 0
    assert {"echo-64k-1000", "sendfile"} <= set(done.stdout.splitlines())
    assert "asyncio streams, uvloop" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--works", "eco"], "--works: 'eco' is not one of echo-100-1, "),
        (["--peers", "twisted"], "--peers: no name has 'twisted' in it"),
        (["--rounds", "0"], "--rounds must be at least 1, and is 0"),
    ],
)
def test_wrong_options(options: list[str], complaint: str) -> None:
    done = run([*BENCHMARKS, *options])
    assert done.returncode
    assert complaint in done.stderr


def test_a_fault_is_met() -> None:
    done = run([sys.executable, "-m", "benchmarks.faults", "--servers", "aiosocketserver, uv"])
    assert (done.returncode, done.stderr) == (0, "")
    *_, row = done.stdout.splitlines()
    assert "200 of 200 served" in row
    assert "serves on, 0 lines on standard error" in row


def test_a_short_soak_is_flat(tmp_path: Path) -> None:
    options = ["--visits", "500", "--output", str(tmp_path)]
    done = run([sys.executable, "-m", "benchmarks.soak", *options])
    assert "\nflat\n" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert (tmp_path / "soak.svg").exists()


def test_shutdown_prints_both() -> None:
    done = run([sys.executable, "benchmarks/shutdown.py", "--rounds", "1"])
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["compat", "socketserver"]


def test_a_missing_compiler_is_told() -> None:
    done = run([*BENCHMARKS, "--quick"], CC="no-such-compiler")
    assert done.returncode == 1
    assert "there is no compiler 'no-such-compiler'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda data: data.replace(b"b", b"B", 1), "the answer is not what was sent"),
        (lambda data: data + b"x", "the answer is not what was sent"),
        (lambda data: b"", "closed connection 0"),
    ],
)
def test_load_notices_a_wrong_answer(
    load: str, answer: Callable[[bytes], bytes], complaint: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer(connection.recv(1000)))

        server = threading.Thread(target=serve)
        server.start()
        done = run([load, "echo", str(listener.getsockname()[1]), "1", "100", "1", "0.1"])
        server.join(TIMEOUT)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "requests" not in done.stdout


def test_the_four_models_of_the_time_server_are_measured() -> None:
    few = ["--clients", "1", "3", "--messages", "2", "--pause", "0", "--rounds", "1"]
    done = run([sys.executable, "-m", "benchmarks.models", *few])
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == ["1"] * 4 + ["3"] * 4
    assert {len(row) for row in rows} == {8}
    threads = {row[1]: int(row[6]) for row in rows[6:]}
    # The loop's, and the one that writes the log.
    assert threads["a task for each"] == 2
    assert threads["one connection at a time"] == 3

"""The benchmarks run, and notice a wrong answer; what they measure is not tested."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 50


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


@pytest.fixture
def load(tmp_path: Path, require_program: Callable[[str], str]) -> str:
    program = str(tmp_path / "load")
    command = [require_program("cc"), "-Wall", "-Wextra", "-Werror", "-o", program]
    done = run([*command, "benchmarks/load.c"])
    assert (done.returncode, done.stderr) == (0, "")
    return program


def test_echo_prints_both_servers_and_their_ratio(require_program: Callable[[str], str]) -> None:
    require_program("cc")
    done = run([sys.executable, "benchmarks/echo.py", "--quick"])
    assert (done.returncode, done.stderr) == (0, "")
    for loop in ("asyncio", "uvloop"):
        table = done.stdout.partition(f"\n{loop}: 10 connections, 1024 bytes")[2]
        words = [line.split() for line in table.splitlines()[2:14]]
        heads = [" ".join(row[:-2]) for row in words]
        assert heads == [
            "lines aiosocketserver",
            "lines asyncio streams",
            "ratio",
            "blocks aiosocketserver",
            "blocks asyncio streams",
            "ratio",
            "threads aiosocketserver",
            "threads socketserver",
            "ratio",
            "connects aiosocketserver",
            "connects socketserver",
            "ratio",
        ]
        assert all(float(figure.replace(",", "")) > 0 for row in words for figure in row[-2:])


def test_shutdown_prints_both() -> None:
    done = run([sys.executable, "benchmarks/shutdown.py", "--rounds", "1"])
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["compat", "socketserver"]


def test_echo_says_that_a_compiler_is_missing() -> None:
    done = run([sys.executable, "benchmarks/echo.py", "--quick"], CC="no-such-compiler")
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
        done = run([load, str(listener.getsockname()[1]), "1", "100", "0.1"])
        server.join(TIMEOUT)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stdout == ""

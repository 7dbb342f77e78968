"""What programs that handlers start inherit of a service: no more than of any Python program."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.test_deploy_systemd import PASS_SOCKETS, told, two_listeners
from tests.deploy_support import ROOT, ask, serving_application

# Starts a shell in each way that Python has, which shows what it was born with.
APPLICATION = """
import asyncio, json, os, re, resource, socketserver, subprocess, sys, tempfile
from aiosocketserver import (
    BaseRequestHandler, ForkingTCPServer, StreamRequestHandler, ThreadingTCPServer,
)

SHOW = (
    "grep ^Sig /proc/self/status; cut -d' ' -f5,6,19 /proc/self/stat; umask; ulimit -a; "
    "ls -l /proc/self/fd; env"
)
SHELL = ["/bin/sh", "-c", SHOW]

def run(**options):
    return subprocess.run(SHELL, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, **options).stdout

def to_file(start):
    with tempfile.NamedTemporaryFile() as file:
        start(file.name)
        return file.read()

def posix_spawn(name):
    actions = [(os.POSIX_SPAWN_OPEN, 1, name, os.O_WRONLY, 0)]
    os.waitpid(os.posix_spawn(SHELL[0], SHELL, os.environ, file_actions=actions), 0)

def system(name):
    os.system(f"{{ {SHOW}; }} > {name}")

def fork_exec(name):
    pid = os.fork()
    if not pid:
        os.dup2(os.open(name, os.O_WRONLY), 1)
        os.execv(SHELL[0], SHELL)
    os.waitpid(pid, 0)

WAYS = {
    "run": run,
    "run without close_fds": lambda: run(close_fds=False),
    "posix_spawn": lambda: to_file(posix_spawn),
    "system": lambda: to_file(system),
    "exec": lambda: to_file(fork_exec),
}

def all_ways():
    return {name: way().decode() for name, way in WAYS.items()}

class Coroutine(StreamRequestHandler):
    async def handle(self):
        shown = all_ways()
        for close in (True, False):
            process = await asyncio.create_subprocess_exec(
                *SHELL, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                close_fds=close,
            )
            shown[f"asyncio {close}"] = (await process.communicate())[0].decode()
        await self.wfile.write(json.dumps(shown).encode())

class Legacy(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(json.dumps(all_ways()).encode())

def forking(server_address, **options):
    return ForkingTCPServer(server_address, Legacy, **options)

def threading(server_address, **options):
    return ThreadingTCPServer(server_address, Legacy, **options)
"""

OURS = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_")

# 32 and 33 are the C library's, whose posix_spawn leaves them ignored.
LIBRARYS_OWN = 1 << 31 | 1 << 32


def signals(text: str, name: str) -> int:
    match = re.search(rf"{name}:\s*([0-9a-f]+)", text)
    assert match is not None
    return int(match[1], 16) & ~LIBRARYS_OWN


def descriptors(text: str) -> dict[int, str]:
    """What is open beyond the standard descriptors; `ls` has the directory itself open too."""
    found = re.findall(r" (\d+) -> (.*)", text)
    return {
        int(number): place
        for number, place in found
        if int(number) > 2 and not place.endswith("/fd")
    }


def rest(text: str) -> list[str]:
    """Session, niceness, umask and limits, which are lines before those of descriptors.

    The process group is another one than that of the test's own programs.
    """
    lines = text.partition("total ")[0].splitlines()
    return [line.partition(" ")[2] if re.fullmatch(r"[\d-]+ .*", line) else line for line in lines]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("target", ["Coroutine", "threading", "forking"])
def test_nothing_of_ours(target: str, workers: str, loop: str, tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(APPLICATION)
    plain = subprocess.run(
        [sys.executable, "-c", "import json, starts; print(json.dumps(starts.all_ways()))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
    )
    expected: dict[str, str] = json.loads(plain.stdout)
    with told(tmp_path), two_listeners() as listeners:
        numbers = [sock.fileno() for sock in listeners]
        with serving_application(
            tmp_path,
            # The second one that was passed is not taken by any bind.
            *(f"starts:{target}", "--bind", "systemd://a", "--bind", "tcp://127.0.0.1:0"),
            *("--workers", workers, "--loop", loop, "--metrics", "127.0.0.1:0"),
            environment={
                "PASSED": " ".join(map(str, numbers)),
                "LISTEN_FDNAMES": "a:b",
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "WATCHDOG_USEC": "20000000",
            },
            pass_fds=numbers,
            preexec=PASS_SOCKETS,
        ) as command:
            shown: dict[str, str] = json.loads(ask(listeners[0].getsockname()[1], b""))
            assert len(shown) == (7 if target == "Coroutine" else 5)
            for way, text in shown.items():
                plainly = expected.get(way, expected["run"])
                for name in ("SigIgn", "SigBlk", "SigCgt"):
                    assert signals(text, name) & ~signals(plainly, name) == 0, (way, name)
                # uvloop leaves its copies of the program's own standard streams open there.
                if loop == "asyncio" or not way.startswith("asyncio"):
                    assert descriptors(text) == descriptors(plainly) == {}, way
                assert not re.findall(rf"^(?:{'|'.join(OURS)}).*", text, re.MULTILINE), way
                if way in expected:
                    without = [line for line in rest(text) if not line.startswith("Sig")]
                    assert without == [r for r in rest(plainly) if not r.startswith("Sig")], way
                # The group of the parent, to which a terminal's Ctrl-C goes.
                (line,) = re.findall(r"^(\d+) \d+ \d+$", text, re.MULTILINE)
                assert int(line) == os.getpgid(command.process.pid), way
            assert command.end() == 0


TERMINAL = """
import asyncio, os, signal, socketserver, time
from aiosocketserver import BaseRequestHandler, ForkingTCPServer

class Starts(BaseRequestHandler):
    async def handle(self):
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        await self.request.sendall(b"%d\\n" % process.pid)
        await self.request.sendall(b"%d\\n" % await process.wait())

class Legacy(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"%d\\n" % os.getpid())
        while signal.getsignal(signal.SIGINT) != signal.SIG_DFL:
            time.sleep(0.01)
        self.wfile.write(b"interrupted\\n")
        time.sleep(1000)

def forking(server_address, **options):
    return ForkingTCPServer(server_address, Legacy, **options)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_program_that_a_handler_starts_ends_as_any_other(
    workers: str, number: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "starts.py").write_text(TERMINAL)
    # uvloop gives programs the default of every signal, asyncio what there is.
    more = ("--workers", workers, "--loop", "asyncio")
    arguments = ("starts:Starts", "--bind", "tcp://127.0.0.1:0", *more)
    with serving_application(tmp_path, *arguments) as command:
        with socket.create_connection(("127.0.0.1", command.ports[0]), 20) as client:
            file: Any = client.makefile("rb")
            with file:
                pid = int(file.readline())
                os.kill(pid, number)
                assert int(file.readline()) == -number
        assert command.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_ctrl_c_ends_forked_children_too(workers: str, tmp_path: Path) -> None:
    """A terminal sends both to the whole group. The first one lets them finish."""
    (tmp_path / "starts.py").write_text(TERMINAL)
    arguments = ("starts:forking", "--bind", "tcp://127.0.0.1:0", "--workers", workers)
    with serving_application(tmp_path, *arguments, "--shutdown-timeout", "none") as command:
        with socket.create_connection(("127.0.0.1", command.ports[0]), 20) as client:
            file: Any = client.makefile("rb")
            with file:
                child = int(file.readline())
                workers_of = [pid for pid in command.children() if workers == "2"]
                for pid in (command.process.pid, child, *workers_of):
                    os.kill(pid, signal.SIGINT)
                command.until("SIGINT: draining")
                assert file.readline() == b"interrupted\n"
                for pid in (command.process.pid, child, *workers_of):
                    # The parent may have ended its workers already.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGINT)
                # It is gone, and its connection with it.
                assert file.read() == b""
        assert command.wait() == 128 + signal.SIGINT

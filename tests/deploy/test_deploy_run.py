"""`run()`, in a program that starts itself: each in a process of its own."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer, run
from aiosocketserver.deploy import StartError
from tests.deploy_support import ROOT, Command, ask

PROGRAM = """
import logging, socketserver, sys
import aiosocketserver

class Echo(aiosocketserver.StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(line)

class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())

logging.basicConfig(level="INFO", format="x] %(message)s")
before = [__import__("signal").getsignal(number) for number in (2, 15)]
"""

END = """
assert before == [__import__("signal").getsignal(number) for number in (2, 15)]
print("code", code)
"""


def started(folder: Path, call: str) -> Command:
    (folder / "program.py").write_text(f"{PROGRAM}\ncode = {call}\n{END}")
    process = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return Command(process)


@pytest.mark.parametrize(
    "call",
    [
        "aiosocketserver.run(Echo, 'tcp://127.0.0.1:0')",
        "aiosocketserver.run(Echo, 'tcp://127.0.0.1:0', workers=2, max_connections=10)",
        "aiosocketserver.run('program_2:Echo', 'tcp://127.0.0.1:0', loop='asyncio')",
        "aiosocketserver.run(aiosocketserver.TCPServer(('127.0.0.1', 0), Echo))",
    ],
)
def test_it_serves_until_a_signal_and_returns(call: str, tmp_path: Path) -> None:
    (tmp_path / "program_2.py").write_text(PROGRAM)
    command = started(tmp_path, call)
    try:
        command.until(r"\] serving ")
        assert ask(command.ports[0], b"a\n") == b"a\n"
        assert command.end(signal.SIGTERM) == 0
        assert command.process.stdout is not None
        assert command.process.stdout.read() == "code 0\n"
    finally:
        command.close()


def test_servers_that_are_made_already(tmp_path: Path) -> None:
    command = started(
        tmp_path,
        "aiosocketserver.run([aiosocketserver.TCPServer(('127.0.0.1', 0), Echo), "
        "aiosocketserver.ThreadingTCPServer(('127.0.0.1', 0), Upper)])",
    )
    try:
        command.until(r"\] serving TCPServer, ThreadingTCPServer on tcp://.*, tcp://")
        first, second = command.ports
        assert ask(first, b"a\n") == b"a\n"
        assert ask(second, b"a\n") == b"A\n"
        assert command.end(signal.SIGINT) == 0
    finally:
        command.close()


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


@pytest.mark.parametrize(
    ("arguments", "options", "problem"),
    [
        (("tcp://x",), {}, "it has no port"),
        (("tcp://127.0.0.1:0",), {"max_conns": 3}, "there is no option 'max_conns': did you mean"),
        (("tcp://127.0.0.1:0",), {"workers": 0}, "workers must be a number above 0"),
        (("tcp://127.0.0.1:0",), {"drain_delay": -1}, "drain_delay must be 0 seconds or more"),
        (("tcp://127.0.0.1:0",), {"max_children": 3}, "no server here has it"),
    ],
)
def test_what_is_wrong_is_raised(
    arguments: tuple[str, ...], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StartError, match=problem):
        run(Echo, *arguments, **options)


def test_a_server_that_is_made_already_serves_as_it_is() -> None:
    server = TCPServer(("127.0.0.1", 0), Echo)
    wrong: list[dict[str, Any]] = [{"workers": 2}, {"max_connections": 3}, {"certfile": "x"}]
    for options in wrong:
        with pytest.raises(StartError, match="serves where and as it is, in this process"):
            run(server, **options)
    with pytest.raises(StartError, match="serves where and as it is"):
        run([server], "tcp://127.0.0.1:0")
    server.server_close()


def test_it_is_for_the_main_thread() -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            run(Echo, "tcp://127.0.0.1:0")
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "run() is for the main thread" in str(raised[0])

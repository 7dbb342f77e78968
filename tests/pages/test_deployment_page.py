"""docs/deployment.md does what it says: its commands, and its lines of Python."""

import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import aiosocketserver
from tests.deploy_support import ask, serving_application
from tests.page_support import PORT, ROOT, Page

PAGE = Page("docs/deployment.md")

INSTALL, SERVE = (block for block in PAGE.all_blocks if block.language == "sh")


class Echo(aiosocketserver.StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


@PAGE.executes("", 0)
def test_the_extras_can_be_installed() -> None:
    for line in INSTALL.text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "pip"
        # What is installed for the tests is enough, and nothing is changed.
        rest = ["--dry-run", "--no-index", "--no-build-isolation", "--quiet"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments, *rest],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@PAGE.executes("", 1)
def test_the_command(tmp_path: Path) -> None:
    program, serve, *arguments = shlex.split(PORT.sub("0", SERVE.text))
    assert (program, serve) == ("aiosocketserver", "serve")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with serving_application(tmp_path, *arguments) as running:
        assert len(running.children()) == 2
        assert ask(running.ports[0], b"hello\n") == b"hello\n"
        assert (tmp_path / "echo.sock").is_socket()
        assert running.end() == 0


@PAGE.executes("The target")
def test_a_function_that_makes_a_server() -> None:
    make = PAGE.namespace(
        "The target", ForkingTCPServer=aiosocketserver.ForkingTCPServer, Handler=Echo
    )["make"]
    with aiosocketserver.serving(make) as (_, port):
        assert ask(port, b"hello\n") == b"hello\n"


@PAGE.executes("In a thread, and in tests")
def test_in_a_thread(capsys: pytest.CaptureFixture[str]) -> None:
    PAGE.namespace(
        "In a thread, and in tests", aiosocketserver=aiosocketserver, socket=socket, Echo=Echo
    )
    assert capsys.readouterr().out == "b'hello\\n'\n"

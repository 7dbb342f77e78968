"""The path of a Unix socket at the end: removed by whoever has bound it, from wherever."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    StreamRequestHandler,
    TCPServer,
    ThreadingUnixDatagramServer,
    ThreadingUnixStreamServer,
    UnixDatagramServer,
    UnixStreamServer,
    serving,
)
from aiosocketserver.deploy.binds import Bind, SocketOptions, open_sockets
from tests.deploy_support import serving_command

SERVERS = [
    UnixStreamServer,
    UnixDatagramServer,
    ThreadingUnixStreamServer,
    ThreadingUnixDatagramServer,
]


class Nothing(BaseRequestHandler):
    async def handle(self) -> None:
        pass


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The working directory, and another one."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    return here, elsewhere


# --- after os.chdir ---


@pytest.mark.parametrize("form", [str, os.fsencode, Path])
@pytest.mark.parametrize("server_class", SERVERS)
async def test_a_relative_path_is_removed_from_another_directory(
    server_class: type[TCPServer], form: Callable[[str], Any], folders: tuple[Path, Path]
) -> None:
    here, elsewhere = folders
    stale = socket.socket(socket.AF_UNIX, server_class.socket_type)
    stale.bind("s")
    stale.close()
    async with server_class(form("s"), Nothing, unix_mode=0o600, unix_group=os.getgid()) as server:
        assert server.server_address == server.socket.getsockname() == "s"
        await server.start_serving()
        os.chdir(elsewhere)
        # Nobody's business: it has the same name.
        (elsewhere / "s").touch()
    assert os.listdir(here) == []
    assert os.listdir(elsewhere) == ["s"]


def test_links_on_the_way_are_followed_as_at_bind(folders: tuple[Path, Path]) -> None:
    here, elsewhere = folders
    (elsewhere / "below").mkdir()
    (here / "link").symlink_to(elsewhere / "below")
    server = UnixStreamServer("link/../s", Nothing)
    assert (elsewhere / "s").is_socket()
    os.chdir("/")
    server.server_close()
    assert not (elsewhere / "s").exists()


def test_what_the_program_makes_of_the_address_does_not_matter(folders: tuple[Path, Path]) -> None:
    here, _ = folders
    server = UnixStreamServer("s", Nothing)
    server.server_address = "the chat"
    server.server_close()
    assert list(here.iterdir()) == []


def test_a_working_directory_that_was_removed_is_told(folders: tuple[Path, Path]) -> None:
    here, _ = folders
    here.rmdir()
    with pytest.raises(FileNotFoundError, match=r"there is no folder '\.' for the socket"):
        UnixStreamServer("s", Nothing)


@pytest.mark.parametrize("kind", ["unix", "unix-dgram"])
def test_binds_are_removed_from_another_directory(kind: str, folders: tuple[Path, Path]) -> None:
    here, elsewhere = folders
    (opened,) = open_sockets([Bind.parse(f"{kind}://s")], SocketOptions())
    assert str(opened) == f"{kind}://s"
    os.chdir(elsewhere)
    opened.close()
    assert list(here.iterdir()) == []


def test_serving_in_a_thread(folders: tuple[Path, Path]) -> None:
    here, elsewhere = folders
    with serving(Echo, "unix://s") as address:
        assert address == "s"
        os.chdir(elsewhere)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("handler", "bind", "workers"),
    [("Echo", "unix://s", "1"), ("Echo", "unix://s", "2"), ("Datagram", "unix-dgram://s", "1")],
)
def test_a_service_whose_code_changes_the_directory(
    handler: str, bind: str, workers: str, tmp_path: Path
) -> None:
    (tmp_path / "moves.py").write_text("import os\nfrom application import *\nos.chdir('/')\n")
    arguments = (f"moves:{handler}", "--bind", bind, "--workers", workers)
    with serving_command(tmp_path, *arguments) as command:
        command.until(r"\] serving ")
        assert (tmp_path / "s").is_socket()
        assert command.end() == 0, command.lines
    assert not (tmp_path / "s").exists()


# --- after a fork ---

DAEMON = """
import asyncio, os, signal
from aiosocketserver import BaseRequestHandler, {server_class}

class Nothing(BaseRequestHandler):
    async def handle(self): pass

server = {server_class}("s", Nothing)
if os.fork():
    os._exit(0)
os.setsid()
os.chdir("/")

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with server:
        await server.start_serving()
        print(os.getpid(), flush=True)
        await ended.wait()

ended = asyncio.Event()
asyncio.run(main())
"""


@pytest.mark.parametrize("server_class", ["UnixStreamServer", "UnixDatagramServer"])
def test_a_daemon_removes_what_was_bound_before_it_became_one(
    server_class: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON.format(server_class=server_class)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.wait(30) == 0
        assert process.stdout is not None
        daemon = int(process.stdout.readline())
        assert (tmp_path / "s").is_socket()
        os.kill(daemon, signal.SIGTERM)
        # Until it has ended.
        assert process.stdout.read() == ""
    assert not (tmp_path / "s").exists()


def in_child(function: Callable[[], object]) -> None:
    """Call it in a forked child, and wait for the child's end."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("server_class", SERVERS)
def test_a_process_that_shares_a_socket_leaves_its_path_to_the_others(
    server_class: type[TCPServer], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    server = server_class(path, Nothing)
    in_child(server.server_close)
    assert path.is_socket()
    # The process that has ended was no client of those that are left.
    server.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.get_request()
    server.server_close()
    assert not path.exists()


# --- whose it is ---


def test_the_next_servers_socket_is_not_taken_for_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system may give the inode's number again as soon as the socket is closed."""
    monkeypatch.setattr(os.path, "samestat", lambda one, other: True)
    path = tmp_path / "s"
    (opened,) = open_sockets([Bind.parse(f"unix://{path}")], SocketOptions())
    # As a server does when it has drained, before the service ends.
    opened.sock.close()
    with UnixStreamServer(path, Nothing).socket as next_one:
        opened.close()
        assert path.is_socket()
        assert next_one.getsockname() == str(path)
    path.unlink()


def test_a_change_of_permissions_does_not_make_it_anothers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = UnixStreamServer(path, Nothing)
    path.chmod(0o600)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    server.server_close()
    assert not path.exists()

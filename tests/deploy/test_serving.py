"""Servers in a background thread, for programs and tests that have a thread of their own."""

import contextlib
import os
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    serving,
)
from aiosocketserver.deploy import StartError
from tests.deploy_support import ROOT, ask
from tests.tls_support import Certificates


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Legacy(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_handler_is_served_while_the_body_runs(loop: str) -> None:
    with serving(Echo, loop=loop) as (host, port):
        assert host == "127.0.0.1"
        assert ask(port, b"hello\n") == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        ask(port)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_its_end_does_not_wait_for_idle_clients(loop: str) -> None:
    with contextlib.ExitStack() as stack:
        # Without a limit: the body's end would be the test's if it waited.
        address = stack.enter_context(serving(Echo, loop=loop, shutdown_timeout=None))
        clients = [socket.create_connection(address, 20) for _ in range(2)]
        clients[0].sendall(b"hello\n")
        assert clients[0].recv(6) == b"hello\n"
        stack.close()
        for client in clients:
            with client:
                assert client.recv(1) == b""


@pytest.mark.parametrize("said", [None, True, False])
def test_what_a_server_says_of_idle_clients_is_heeded(said: bool | None) -> None:
    server = TCPServer(("127.0.0.1", 0), Echo, end_when_draining=said)
    with serving(server):
        assert server.end_when_draining is (said is not False)


def test_legacy_handlers_and_other_places(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(Legacy, f"unix://{path}") as address:
        assert address == str(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            client.sendall(b"hello\n")
            assert client.recv(6) == b"HELLO\n"
    assert not path.exists()


def test_names_are_found_and_the_socket_has_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "socket"
    monkeypatch.chdir(tmp_path)
    with serving(f"{__name__}:Echo", f"unix://{path}", unix_mode=0o600):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_server_that_is_made_already() -> None:
    server = ThreadingTCPServer(("127.0.0.1", 0), Legacy)
    with serving(server) as address:
        assert address == server.server_address
        assert ask(address[1], b"a\n") == b"A\n"
    assert server.socket.fileno() == -1


def test_options_and_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    context = certificates.client_context()
    with (
        serving(Echo, ssl_context=certificates.server_context(), max_connections=3) as address,
        socket.create_connection(address) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"a\n")
        assert secured.recv(2) == b"a\n"


def test_several_at_once() -> None:
    with serving(Echo) as first, serving(Legacy) as second:
        assert ask(first[1], b"a\n") == b"a\n"
        assert ask(second[1], b"a\n") == b"A\n"


@pytest.mark.parametrize(
    ("target", "arguments", "problem"),
    [
        (5, {}, "5 cannot be served on tcp://127.0.0.1:"),
        (Echo, {"bind": "nowhere"}, "it has no scheme"),
        (Echo, {"loop": "trio"}, "loop must be one of auto, asyncio, uvloop, and is 'trio'"),
        (Echo, {"bind": "tls://127.0.0.1:0"}, "give an ssl_context"),
        (Echo, {"max_connections": -1}, "max_connections must be a whole number"),
        (Echo, {"bind": "tcp://192.0.2.1:0"}, "EADDRNOTAVAIL"),
        (Echo, {"bind": "tcp://*:0"}, "has several addresses, and one is wanted"),
    ],
)
def test_what_is_wrong_is_raised_where_it_was_asked_for(
    target: Any, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StartError, match=problem), serving(target, **arguments):
        pytest.fail("the body must not run")


def test_options_belong_to_servers_that_are_made_here() -> None:
    server = TCPServer(("127.0.0.1", 0), Echo)
    problem = "max_connections given for a server that has been"
    with pytest.raises(StartError, match=problem), serving(server, max_connections=3):
        pytest.fail("the body must not run")
    server.server_close()


def test_what_keeps_the_loop_from_serving_is_raised() -> None:
    server = TCPServer(("127.0.0.1", 0), Echo)
    server.server_close()
    with pytest.raises(RuntimeError, match="the server was closed"), serving(server):
        pytest.fail("the body must not run")


def test_an_exit_in_a_handler_is_raised_at_the_end() -> None:
    class Exits(BaseRequestHandler):
        async def handle(self) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"), serving(Exits) as address:
        assert ask(address[1]) == b""


def test_an_error_in_the_body_shuts_the_server_down() -> None:
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), serving(Echo) as address:
        raise ZeroDivisionError
    with pytest.raises(ConnectionRefusedError):
        ask(address[1])
    assert threading.active_count() == threads


def test_run_and_serving_come_lazily() -> None:
    assert aiosocketserver.run.__module__ == "aiosocketserver.deploy.running"
    with pytest.raises(AttributeError, match="has no attribute 'runs'"):
        _ = aiosocketserver.runs


# --- the pytest plugin ---


A_TEST = """
import socket
from aiosocketserver import StreamRequestHandler

class Echo(StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(line)

def test_it(serving):
    for _ in range(2):
        with socket.create_connection(serving(Echo, max_connections=5)) as sock:
            sock.sendall(b"hello\\n")
            assert sock.recv(6) == b"hello\\n"
"""


def test_the_fixture_serves(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(A_TEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout

"""A listening socket that cannot be accepted from: no spinning, and one line of log."""

import errno
import logging
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, implementation, in_thread

ROOT = Path(__file__).parents[2]
ADDRESS = ("127.0.0.1", 0)


class Handler(compat.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"answer")


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


PROGRAM = """\
import logging, os, resource, socket, sys, threading
from aiosocketserver import compat

logging.basicConfig(format="%(message)s", stream=sys.stdout)

class Handler(compat.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"answer")

class Server(compat.TCPServer):
    tries = 0
    def get_request(self):
        self.tries += 1
        try:
            return super().get_request()
        except OSError:
            if self.tries == 3:
                for descriptor in filler:
                    os.close(descriptor)
            raise
    def shutdown_request(self, request):
        super().shutdown_request(request)
        closed.set()

filler = []
closed = threading.Event()
with Server(("127.0.0.1", 0), Handler) as server:
    client = socket.socket()
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    with socket.create_connection(server.server_address) as first:
        first.recv(10)
    # Its descriptor on the server's side must not become free later.
    closed.wait(20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    while True:
        try:
            filler.append(os.dup(0))
        except OSError:
            break
    server.tries = 0
    client.connect(server.server_address)
    print(client.recv(10).decode(), "at try", server.tries)
    client.close()
    server.shutdown()
    serving.join()
"""


def test_a_process_without_descriptors_tries_again_later_and_says_so_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        (
            "accepting is paused, and goes on as soon as it can: Too many open files "
            f"(errno {errno.EMFILE})"
        ),
        "answer at try 4",
    ]


def test_a_listening_socket_that_was_shut_down_is_tried_ever_more_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: list[float] = []
    third = threading.Event()

    class Server(compat.TCPServer):
        def get_request(self) -> Any:
            tries.append(0)
            if len(tries) == 3:
                third.set()
            return super().get_request()

    with Server(ADDRESS, Handler) as server, in_thread(server.serve_forever):
        server.socket.shutdown(socket.SHUT_RDWR)
        assert third.wait(BOUND)
        server.shutdown()
    assert len(caplog.records) == 1
    # Thousands, where it spins.
    assert len(tries) < 10


def test_a_socket_that_was_closed_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[int | None] = []
    refused = threading.Event()

    class Server(compat.TCPServer):
        def service_actions(self) -> None:
            self.socket.close()

        def get_request(self) -> Any:
            try:
                return super().get_request()
            except OSError as error:
                errors.append(error.errno)
                refused.set()
                raise

    with Server(ADDRESS, Handler) as server:
        address = server.server_address
        with in_thread(server.serve_forever):
            assert ask(address) == b"answer"
            assert refused.wait(BOUND)
            server.shutdown()
    assert errors == [errno.EBADF]
    assert caplog.records == []


def test_a_failed_handshake_in_get_request_concerns_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Server(compat.TCPServer):
        failed = False

        def get_request(self) -> Any:
            request, address = super().get_request()
            if not self.failed:
                self.failed = True
                request.close()
                raise OSError("handshake")
            return request, address

    with Server(ADDRESS, Handler) as server, in_thread(server.serve_forever):
        with connect(server.server_address) as client:
            assert client.recv(1) == b""
        assert ask(server.server_address) == b"answer"
        server.shutdown()
    assert caplog.records == []


def test_a_shortage_in_handle_request_is_no_shortage_of_a_later_serve_forever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Server(compat.TCPServer):
        short = True

        def get_request(self) -> Any:
            if self.short:
                raise OSError(errno.EMFILE, "short")
            return super().get_request()

    with Server(ADDRESS, Handler) as server, connect(server.server_address) as client:
        server.handle_request()
        server.short = False
        with in_thread(server.serve_forever):
            assert client.recv(10) == b"answer"
            server.shutdown()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

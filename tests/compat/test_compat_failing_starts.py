"""compat's servers while no thread or child can be started, or there is no memory to accept."""

import logging
import socket
import time
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, implementation, receive_all
from tests.compat_support import serving as served
from tests.shortage_support import NO_MEMORY, NO_PROCESS, NO_THREAD, Shortage

ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    implementation(request.param, monkeypatch)


class Handler(compat.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            self.request[1].sendto(b"answer", self.client_address)
        else:
            self.request.sendall(b"answer")


def telling(name: str) -> Any:
    """A class of that name that keeps what its hooks are told of failures."""

    class Server(getattr(compat, name)):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            self.errors.append(client_address)

    server = Server(ADDRESS, Handler)
    server.errors = []
    return server


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def wait_for_tries(shortage: Shortage, number: int) -> None:
    deadline = time.monotonic() + BOUND
    while shortage.tries < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "what", "error"),
    [
        ("ThreadingTCPServer", "start", NO_THREAD),
        ("ForkingTCPServer", "fork", NO_PROCESS),
        ("ForkingTCPServer", "fork", NO_MEMORY),
    ],
)
def test_requests_wait_until_there_is_enough_again(
    name: str,
    what: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with served(telling(name)) as server:
        shortage = Shortage(monkeypatch, what, error)
        with connect(server.server_address) as first, connect(server.server_address) as second:
            wait_for_tries(shortage, 3)
            # Thousands, where it spins.
            assert shortage.tries < 10
            shortage.end()
            assert receive_all(first) == b"answer"
            assert receive_all(second) == b"answer"
    assert server.errors == []
    (line,) = errors_in(caplog)
    assert line.startswith("accepting is paused, and goes on as soon as a ")
    assert line.endswith("; 1 wait")


def test_what_waits_when_serving_ends_is_closed_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with connect_to_short_server(monkeypatch) as client:
        assert receive_all(client) == b""
    assert "is closed: serve_forever() ends" in errors_in(caplog)[-1]


def connect_to_short_server(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    with served(telling("ThreadingTCPServer")) as server:
        shortage = Shortage(monkeypatch, "start", NO_THREAD)
        client = connect(server.server_address)
        wait_for_tries(shortage, 1)
    return client


def test_what_can_never_be_started_is_told_by_handle_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with served(telling("ThreadingTCPServer")) as server:
        shortage = Shortage(monkeypatch, "start", NO_THREAD)
        with connect(server.server_address) as client:
            wait_for_tries(shortage, 2)
            shortage.error = RuntimeError("can't create new thread at interpreter shutdown")
            assert receive_all(client) == b""
        shortage.end()
        assert ask(server.server_address) == b"answer"
    assert len(server.errors) == 1


def test_handle_request_fails_as_that_of_socketserver(monkeypatch: pytest.MonkeyPatch) -> None:
    with telling("ThreadingTCPServer") as server, connect(server.server_address) as client:
        Shortage(monkeypatch, "start", NO_THREAD)
        server.handle_request()
        assert receive_all(client) == b""
    assert len(server.errors) == 1


@pytest.mark.parametrize("name", ["TCPServer", "UDPServer"])
def test_without_memory_to_take_a_request_it_is_taken_later(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    class Server(getattr(compat, name)):  # type: ignore[misc]
        def get_request(self) -> Any:
            nonlocal tries
            tries += 1
            if tries <= 3:
                raise MemoryError
            return super().get_request()

    is_udp = name == "UDPServer"
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    with served(Server(ADDRESS, Handler)) as server, socket.socket(type=kind) as client:
        client.settimeout(BOUND)
        client.connect(server.server_address)
        client.send(b"question")
        assert client.recv(10) == b"answer"
    assert tries == 4
    assert errors_in(caplog) == [
        "accepting is paused, and goes on as soon as it can: out of memory"
    ]

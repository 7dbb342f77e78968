"""handle_request(): one request, its time-outs, and programs that wait by themselves."""

import select
import socket
from typing import Any

import pytest

from tests.compat_support import IMPLEMENTATIONS, connect, implementation

ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


@pytest.fixture
def server(module: Any) -> Any:
    class Server(module.TCPServer):  # type: ignore[misc]
        def handle_timeout(self) -> None:
            self.timeouts = getattr(self, "timeouts", 0) + 1

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.sendall(b"answer")

    with Server(ADDRESS, Handler) as server:
        yield server


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_handle_timeout_is_called_when_nobody_comes(server: Any, timeout: float) -> None:
    server.timeout = timeout
    server.handle_request()
    assert server.timeouts == 1


def test_the_socket_s_time_out_counts_too(server: Any) -> None:
    server.socket.settimeout(0.01)
    server.handle_request()
    server.timeout = 3600
    server.handle_request()
    assert server.timeouts == 2


def test_a_request_within_the_time_out_is_served(server: Any) -> None:
    server.timeout = 3600
    with connect(server.server_address) as client:
        server.handle_request()
        assert client.recv(10) == b"answer"
    assert not hasattr(server, "timeouts")


def test_one_request_for_each_call(server: Any) -> None:
    with connect(server.server_address) as first, connect(server.server_address) as second:
        server.handle_request()
        assert first.recv(10) == b"answer"
        second.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.recv(10)
        second.setblocking(True)
        server.handle_request()
        assert second.recv(10) == b"answer"


def test_a_program_with_a_select_of_its_own(server: Any) -> None:
    with connect(server.server_address) as client:
        readable, _, _ = select.select([server], [], [], 20)
        assert readable == [server]
        server._handle_request_noblock()
        assert client.recv(10) == b"answer"


def test_an_error_of_accept_is_no_error_of_the_call(module: Any) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def get_request(self) -> Any:
            request, _ = super().get_request()
            request.close()
            raise OSError("a failed handshake, say")

    with Server(ADDRESS, module.BaseRequestHandler) as server, connect(server.server_address) as c:
        server.handle_request()
        assert c.recv(1) == b""


def test_what_verify_request_refuses_is_closed(module: Any) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    with Server(ADDRESS, module.BaseRequestHandler) as server, connect(server.server_address) as c:
        server.handle_request()
        assert c.recv(1) == b""


def test_datagrams_have_a_time_out_too(module: Any) -> None:
    received = []

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            received.append(self.request[0])

    with module.UDPServer(ADDRESS, Handler) as server:
        server.timeout = 0.01
        server.handle_request()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"datagram", server.server_address)
        server.timeout = 3600
        server.handle_request()
    assert received == [b"datagram"]

"""call_centre.py, whose callers send their inputs cut, joined and unended."""

import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.deploy_support import ask, receive_all
from tests.example_support import CALL_CENTRES, TIMEOUT, call_centre

GREETING = "This is the bakery. Dial 0 to talk to somebody, exit to hang up.\n"
PUT_THROUGH = "店员这就来.\nSomebody is on the way to the phone.\n"
UNKNOWN = "没听懂.\nNothing is known by that number.\n"


@pytest.fixture(params=CALL_CENTRES)
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[int]:
    with call_centre(request.param, tmp_path) as centre:
        yield centre.ports[0]


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)


def receive(sock: socket.socket, ends: bytes) -> bytes:
    """What comes up to and with `ends`."""
    received = b""
    while not received.endswith(ends):
        block = sock.recv(1024)
        assert block, received
        received += block
    return received


def receive_exactly(sock: socket.socket, answers: int) -> str:
    """So many answers of the call centre, which have two lines each."""
    received = b""
    while received.count(b"\n") < 2 * answers:
        block = sock.recv(1)
        assert block, received
        received += block
    return received.decode()


def test_inputs_that_are_cut_and_joined(port: int) -> None:
    with connected(port) as caller:
        assert receive(caller, GREETING.encode()).startswith("您好".encode())
        caller.sendall(b"0help\n\r\n0")
        assert receive_exactly(caller, 3) == PUT_THROUGH + UNKNOWN + PUT_THROUGH
        caller.sendall(b"ex")
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller.sendall(b"it and no more")
        assert receive_all(caller) == b""


def test_a_pause_ends_an_input(port: int) -> None:
    with connected(port) as caller:
        receive(caller, GREETING.encode())
        for unknown in (b"ex", "零".encode(), b"\xff\xfe", b"1" * 10_000):
            caller.sendall(unknown)
            assert receive_exactly(caller, 1) == UNKNOWN
            if len(unknown) > 1024:
                break
        caller.shutdown(socket.SHUT_WR)
        receive_all(caller)


def test_the_end_of_input_ends_the_last_one(port: int) -> None:
    assert ask(port, b"0\nhelp").decode().endswith(GREETING + PUT_THROUGH + UNKNOWN)

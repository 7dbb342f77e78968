"""echo.py, legacy_threads.py and upper.py, with nc and with clients that misbehave."""

import contextlib
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deploy_support import ask
from tests.example_support import LOOPS, TIMEOUT, running, say

pytestmark = pytest.mark.parametrize("loop", LOOPS)

# nc: -N says the end of its input to the server, which socketserver's line loop waits for.


def test_echo_answers_nc(loop: str, tmp_path: Path, require_program: Callable[[str], str]) -> None:
    nc = require_program("nc")
    with running("echo", "tcp://127.0.0.1:0", loop=loop, folder=tmp_path) as echo:
        assert say([nc, "-N", "127.0.0.1", str(echo.ports[0])], "one\ntwo\n") == "one\ntwo\n"


def test_echo_stops_at_sigint_while_clients_are_connected(loop: str, tmp_path: Path) -> None:
    with running("echo", "tcp://[::1]:0", loop=loop, folder=tmp_path) as echo:
        with socket.create_connection(("::1", echo.ports[0]), timeout=TIMEOUT) as client:
            client.sendall(b"here\n")
            assert client.recv(100) == b"here\n"
            echo.process.send_signal(signal.SIGINT)
            assert client.recv(100) == b""
        assert echo.wait() == 0


@pytest.mark.parametrize("way", ["tasks", "threads", "children"])
class TestUpper:
    def test_on_tcp(
        self, loop: str, way: str, tmp_path: Path, require_program: Callable[[str], str]
    ) -> None:
        nc = require_program("nc")
        bind = "tcp://127.0.0.1:0"
        with running("upper", "--in", way, bind, loop=loop, folder=tmp_path) as upper:
            port = str(upper.ports[0])
            assert say([nc, "-N", "127.0.0.1", port], "one\ntwo\n") == "ONE\nTWO\n"

    def test_on_udp(
        self, loop: str, way: str, tmp_path: Path, require_program: Callable[[str], str]
    ) -> None:
        nc = require_program("nc")
        bind = "udp://127.0.0.1:0"
        with running("upper", "--in", way, bind, loop=loop, folder=tmp_path) as upper:
            # A datagram has no end of input to say: -W ends nc after the first answer.
            command = [nc, "-u", "-W", "1", "127.0.0.1", str(upper.ports[0])]
            assert say(command, "one") == "ONE"

    def test_on_a_unix_socket(
        self, loop: str, way: str, tmp_path: Path, require_program: Callable[[str], str]
    ) -> None:
        nc = require_program("nc")
        path = tmp_path / "u"
        with running("upper", "--in", way, f"unix://{path}", loop=loop, folder=tmp_path):
            assert say([nc, "-N", "-U", str(path)], "one\ntwo\n") == "ONE\nTWO\n"
        assert not path.exists()

    def test_on_unix_datagrams(
        self, loop: str, way: str, tmp_path: Path, require_program: Callable[[str], str]
    ) -> None:
        nc = require_program("nc")
        path = tmp_path / "u"
        with running("upper", "--in", way, f"unix-dgram://{path}", loop=loop, folder=tmp_path):
            assert say([nc, "-uU", "-W", "1", str(path)], "one") == "ONE"
        assert not path.exists()

    def test_a_client_that_resets_the_connection_harms_nobody(
        self, loop: str, way: str, tmp_path: Path
    ) -> None:
        bind = "tcp://127.0.0.1:0"
        with running("upper", "--in", way, bind, loop=loop, folder=tmp_path) as upper:
            port = upper.ports[0]
            with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
                client.sendall(b"one")
                assert client.recv(100) == b"ONE"
                # Off with it: close() sends a reset (socket(7)).
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                name = str(client.getsockname())
            assert upper.until("reset the connection").string.startswith(name)
            assert ask(port, b"two") == b"TWO"


def test_legacy_handler_runs_in_a_thread_and_its_migrated_form_on_the_loop(
    loop: str, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    nc = require_program("nc")
    with running("legacy_threads", "0", "0", loop=loop, folder=tmp_path) as program:
        legacy, migrated = map(str, program.ports)
        answer = say([nc, "-N", "127.0.0.1", legacy], "one\ntwo\n")
        name = answer.partition(":")[0]
        assert name.endswith("(process_request_thread)")
        assert answer == f"{name}: one\n{name}: two\n"
        assert say([nc, "-N", "127.0.0.1", migrated], "one\n") == "MainThread: one\n"


def test_legacy_threads_stops_while_clients_are_connected(loop: str, tmp_path: Path) -> None:
    with (
        running("legacy_threads", "0", "0", loop=loop, folder=tmp_path) as program,
        contextlib.ExitStack() as stack,
    ):
        clients = []
        for port in program.ports:
            client = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
            clients.append(stack.enter_context(client))
            client.sendall(b"here\n")
            assert client.recv(100).endswith(b": here\n")
        program.process.send_signal(signal.SIGTERM)
        for client in clients:
            assert client.recv(100) == b""
            client.close()
        assert program.wait() == 0

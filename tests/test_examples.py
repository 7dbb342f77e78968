"""Each program of examples/ runs as its docstring says, with real clients, and stops cleanly."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 20


@pytest.fixture(params=["asyncio", "uvloop"])
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Environment variables under which the examples take one loop or the other."""
    path = [str(ROOT)]
    if request.param == "asyncio":
        without = tmp_path / "without-uvloop"
        without.mkdir()
        (without / "uvloop.py").write_text("raise ImportError('hidden by a test')\n")
        path.insert(0, str(without))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "EXPECTED_LOOP": request.param}


@dataclass
class Running:
    """An example that serves; `ways` is what each of its servers says how to talk to it."""

    process: subprocess.Popen[str]
    ways: list[list[str]]
    stopped: bool = False

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        self.stopped = True
        self.process.send_signal(number)


@contextlib.contextmanager
def running(
    environment: dict[str, str], name: str, *arguments: str, servers: int = 1
) -> Iterator[Running]:
    """Run an example, and see that it ends cleanly, at the latest by the SIGINT at the end."""
    process = subprocess.Popen(
        [sys.executable, f"examples/{name}.py", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        ways = []
        for _ in range(servers):
            first = process.stdout.readline().strip()
            assert f", on {environment['EXPECTED_LOOP']}" in first
            label, _, command = process.stdout.readline().strip().partition(": ")
            assert label == "to talk to it"
            ways.append(command.split())
        example = Running(process, ways)
        yield example
        if not example.stopped:
            example.stop()
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()
    assert (process.returncode, errors, output) == (0, "", "")


def say(command: list[str], text: str) -> str:
    """What a program answers that is told `text` and then the end of its input."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert done.stderr == ""
    return done.stdout


# nc: -N says the end of its input to the server, which socketserver's line loop waits for.


def test_echo_answers_nc_as_it_says(
    environment: dict[str, str], require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    with running(environment, "echo", "127.0.0.1", "0") as example:
        [[nc, host, port]] = example.ways
        assert say([nc, "-N", host, port], "one\ntwo\n") == "one\ntwo\n"


def test_echo_stops_at_sigterm_while_clients_are_connected(environment: dict[str, str]) -> None:
    with running(environment, "echo", "::1", "0") as echo:
        [[_, host, port]] = echo.ways
        with socket.create_connection((host, int(port)), timeout=TIMEOUT) as client:
            client.sendall(b"here\n")
            assert client.recv(100) == b"here\n"
            echo.stop(signal.SIGTERM)
            assert client.recv(100) == b""


def test_echo_says_in_one_line_why_it_cannot_serve(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "examples/echo.py", "127.0.0.1", str(port)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("cannot serve there: ")
    assert str(port) in done.stderr
    assert done.stderr.count("\n") == 1


def test_upper_on_tcp_answers_nc_as_it_says(
    environment: dict[str, str], require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    with running(environment, "upper", "tcp", "127.0.0.1:0") as example:
        [[nc, host, port]] = example.ways
        assert say([nc, "-N", host, port], "one\ntwo\n") == "ONE\nTWO\n"


def test_upper_on_udp_answers_nc_as_it_says(
    environment: dict[str, str], require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    with running(environment, "upper", "udp", "127.0.0.1:0") as example:
        [[nc, option, host, port]] = example.ways
        # A datagram has no end of input to say: -W ends nc after the first answer.
        assert say([nc, option, "-W", "1", host, port], "one") == "ONE"


def test_upper_on_a_unix_socket_answers_nc_as_it_says(
    environment: dict[str, str], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    path = tmp_path / "u"
    with running(environment, "upper", "unix", str(path)) as example:
        [[nc, option, address]] = example.ways
        assert address == str(path)
        assert say([nc, "-N", option, address], "one\ntwo\n") == "ONE\nTWO\n"
    assert not path.exists()


def test_upper_on_unix_datagrams_answers_nc_as_it_says(
    environment: dict[str, str], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    path = tmp_path / "u"
    with running(environment, "upper", "unix-datagram", str(path)) as example:
        [[nc, option, address]] = example.ways
        assert say([nc, option, "-W", "1", address], "one") == "ONE"
    assert not path.exists()


def test_upper_on_unix_datagrams_answers_whoever_has_a_name(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with (
        running(environment, "upper", "unix-datagram", str(tmp_path / "u")),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(TIMEOUT)
        client.bind(str(tmp_path / "c"))
        client.sendto(b"one", str(tmp_path / "u"))
        assert client.recv(100) == b"ONE"


def test_legacy_handler_runs_in_a_thread_and_its_migrated_form_on_the_loop(
    environment: dict[str, str], require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    with running(environment, "legacy_threads", "0", "0", servers=2) as example:
        legacy, migrated = example.ways
        answer = say([legacy[0], "-N", *legacy[1:]], "one\ntwo\n")
        name = answer.partition(":")[0]
        assert name.endswith("(process_request_thread)")
        assert answer == f"{name}: one\n{name}: two\n"
        assert say([migrated[0], "-N", *migrated[1:]], "one\n") == "MainThread: one\n"


def test_legacy_threads_stops_while_clients_are_connected(environment: dict[str, str]) -> None:
    with (
        running(environment, "legacy_threads", "0", "0", servers=2) as example,
        contextlib.ExitStack() as stack,
    ):
        clients = []
        for _, host, port in example.ways:
            client = socket.create_connection((host, int(port)), timeout=TIMEOUT)
            clients.append(stack.enter_context(client))
            client.sendall(b"here\n")
            assert client.recv(100).endswith(b": here\n")
        example.stop()
        # Its `async with` ends the last server first.
        for client in reversed(clients):
            assert client.recv(100) == b""
            client.close()


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_each_example_is_short_and_says_how_to_start_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 150
    assert f"python examples/{path.name}" in text.split('"""')[1]

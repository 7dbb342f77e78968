"""The tutorials' programs as they are written today, and the tutorials' own clients."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.deploy_support import ROOT, ask, receive_all
from tests.example_support import LOOPS, TIMEOUT, running

TEXTS = ROOT / "tests" / "examples" / "texts"
if not TEXTS.exists():
    pytest.skip("a source distribution has no quotations", allow_module_level=True)


@pytest.fixture
def python2() -> str:
    """A Python 2 of pyenv's, or one that is on PATH. No distribution has one any more."""
    roots = [Path(os.environ.get("PYENV_ROOT", "")), Path.home() / ".pyenv"]
    for found in (path for root in roots for path in root.glob("versions/2.7*/bin/python2.7")):
        return str(found)
    return shutil.which("python2.7") or pytest.skip("there is no Python 2.7")


class Client:
    """A tutorial's client, that reads lines and prints what the server sends."""

    def __init__(self, interpreter: str, text: str, port: int, more: str = "") -> None:
        code = (TEXTS / text).read_text()
        code = re.sub(r"(127\.0\.0\.1|localhost)(['\"],\s*)\d+", rf"127.0.0.1\g<2>{port}", code)
        self.process = subprocess.Popen(
            [interpreter, "-u", "-c", f"# -*- coding: utf-8 -*-\n{code}{more}"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )

    def enter(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")

    def until(self, text: str) -> str:
        """What it prints up to and with `text`."""
        assert self.process.stdout is not None
        seen = b""
        while not seen.endswith(text.encode()):
            byte = self.process.stdout.read(1)
            assert byte, f"no {text!r} after {seen.decode()!r}"
            seen += byte
        return seen.decode()

    def end(self) -> tuple[str, str]:
        """The rest of what it prints, and its errors, after the end of its input."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        return output.decode(), errors.decode()


@contextlib.contextmanager
def client(interpreter: str, text: str, port: int, more: str = "") -> Generator[Client]:
    running_client = Client(interpreter, text, port, more)
    watchdog = threading.Timer(TIMEOUT, running_client.process.kill)
    watchdog.start()
    try:
        yield running_client
    finally:
        watchdog.cancel()
        watchdog.join()
        running_client.process.kill()
        running_client.process.communicate()


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


class TestCallCentre:
    """Text 000."""

    greeting = "Welcome to 10086. Please enter 1xxx, or 0 for an operator.\n"
    recorded = "通过可能会被录音.\nYour call may be recorded.\n"
    again = "请重新输入.\nPlease enter it again.\n"

    @pytest.fixture(params=["asyncio", "uvloop", "legacy"])
    def port(self, request: pytest.FixtureRequest, tmp_path: Path) -> Generator[int]:
        if request.param == "legacy":
            # As a program of socketserver's does, it ends by the signal.
            program = running("call_centre", "--legacy", "0", folder=tmp_path, code=-15)
        else:
            program = running("call_centre", "0", loop=request.param, folder=tmp_path)
        with program as centre:
            yield centre.ports[0]

    def test_client_of_the_text(self, port: int, python2: str) -> None:
        prompt = "please input message:"
        with client(python2, "000_client.py2", port) as caller:
            assert caller.until(prompt) == prompt
            # It reads once for each input: the greeting first, or that and the first answer.
            shown = ""
            for each in ("0", "1001", "exit"):
                caller.enter(each)
                shown += caller.until(f"\n{prompt}").removesuffix(f"\n{prompt}")
            assert shown.startswith("欢迎致电 10086")
            assert shown.endswith(f"{self.greeting}{self.recorded}{self.again}")
            output, errors = caller.end()
        assert output == ""
        assert "EOFError" in errors

    def test_inputs_that_are_cut_and_joined(self, port: int) -> None:
        with connected(port) as caller:
            assert receive(caller, self.greeting.encode()).startswith("欢迎".encode())
            caller.sendall(b"0help\n\r\n0")
            assert receive_exactly(caller, 3) == self.recorded + self.again + self.recorded
            caller.sendall(b"ex")
            caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            caller.sendall(b"it and no more")
            assert receive_all(caller) == b""

    def test_a_pause_ends_an_input(self, port: int) -> None:
        with connected(port) as caller:
            receive(caller, self.greeting.encode())
            for unknown in (b"ex", "零".encode(), b"\xff\xfe", b"1" * 10_000):
                caller.sendall(unknown)
                assert receive_exactly(caller, 1) == self.again
                if len(unknown) > 1024:
                    break
            caller.shutdown(socket.SHUT_WR)
            receive_all(caller)

    def test_the_end_of_input_ends_the_last_one(self, port: int) -> None:
        assert ask(port, b"0\nhelp").decode().endswith(self.greeting + self.recorded + self.again)


def receive_exactly(sock: socket.socket, answers: int) -> str:
    """So many answers of the call centre, which have two lines each."""
    received = b""
    while received.count(b"\n") < 2 * answers:
        block = sock.recv(1)
        assert block, received
        received += block
    return received.decode()


@pytest.mark.parametrize("loop", LOOPS)
class TestEchoes:
    """Text 001, 2.2 and 2.3; text 002."""

    bind = "tcp://127.0.0.1:0"

    def test_forking_client_of_the_text(self, loop: str, tmp_path: Path, python2: str) -> None:
        with running("forking_echo", self.bind, loop=loop, folder=tmp_path) as echo:
            port = echo.ports[0]
            more = (
                f"\nclients = [ForkingClient('127.0.0.1', {port}) for _ in range(2)]"
                "\nfor client in clients: client.run()"
                "\nfor client in clients: client.shutdown()"
            )
            with client(python2, "001_forking_client.py2", port, more) as visitor:
                output, errors = visitor.end()
            assert errors == ""
            children = re.findall(r"received: received (\d+) : Hello echo server!", output)
            assert len(set(children)) == 2
            assert str(echo.process.pid) not in children

    def test_threading_client_of_the_text(self, loop: str, tmp_path: Path, python2: str) -> None:
        with running("threading_echo", self.bind, loop=loop, folder=tmp_path) as echo:
            port = echo.ports[0]
            more = f"\nfor each in '123': client('127.0.0.1', {port}, 'Hello from Client ' + each)"
            with client(python2, "001_threading_client.py2", port, more) as visitor:
                output, errors = visitor.end()
        assert errors == ""
        names, ends = zip(*(line.rsplit(": ", 1) for line in output.splitlines()), strict=True)
        assert ends == tuple(f"Hello from Client {each}" for each in "123")
        assert len(set(names)) == 3
        assert all("Thread-" in name for name in names)

    def test_client_of_text_002(self, loop: str, tmp_path: Path) -> None:
        with (
            running("select_echo", "hello", self.bind, loop=loop, folder=tmp_path) as hello,
            client(sys.executable, "002_client.py3", hello.ports[0]) as visitor,
        ):
            assert visitor.end() == ("b'hello'\n", "")

    @pytest.mark.parametrize("handler", ["queued", "blocking"])
    def test_select_echo(self, loop: str, handler: str, tmp_path: Path) -> None:
        with running("select_echo", handler, self.bind, loop=loop, folder=tmp_path) as echo:
            assert ask(echo.ports[0], b"x" * 100_000) == b"x" * 100_000

    def test_queues_are_bounded_and_nobody_waits_for_a_client_that_does_not_read(
        self, loop: str, tmp_path: Path
    ) -> None:
        with (
            running("select_echo", "queued", self.bind, loop=loop, folder=tmp_path) as echo,
            connected(echo.ports[0]) as silent,
        ):
            silent.settimeout(0.5)
            with pytest.raises(TimeoutError):
                # More than the kernel's buffers take.
                silent.sendall(bytes(256 * 2**20))
            status = Path(f"/proc/{echo.process.pid}/status").read_text()
            (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
            assert int(resident) < 100_000
            assert ask(echo.ports[0], b"y") == b"y"


@pytest.mark.parametrize("way", ["tasks", "threads", "children"])
def test_client_of_text_003(way: str, tmp_path: Path) -> None:
    with (
        running("upper", "--in", way, "tcp://127.0.0.1:0", folder=tmp_path) as upper,
        client(sys.executable, "003_client.py3", upper.ports[0]) as visitor,
    ):
        for line in ("hello", "groß"):
            visitor.enter(line)
            # ASCII letters only: bytes have no others.
            assert (
                visitor.until("\n").removeprefix("输入:") == line.encode().upper().decode() + "\n"
            )
        assert "EOFError" in visitor.end()[1]


@pytest.mark.parametrize("model", ["one", "pool", "threads", "tasks"])
class TestTimeServer:
    """Text 004."""

    def test_client_of_the_text(self, model: str, tmp_path: Path, python2: str) -> None:
        with (
            running(
                "time_server", "--model", model, "tcp://127.0.0.1:0", folder=tmp_path
            ) as server,
            client(python2, "004_client.py2", server.ports[0]) as visitor,
        ):
            for line in ("hello", "again"):
                visitor.enter(line)
                answer = visitor.until("\n").removeprefix("> ")
                assert re.fullmatch(
                    rf"\[\w{{3}} \w{{3}} +\d+ [\d:]{{8}} \d{{4}}\] {line}\n", answer
                )
            visitor.enter("")
            assert visitor.end() == ("> ", "")

    def test_how_many_it_serves_at_once(self, model: str, tmp_path: Path) -> None:
        at_once = {"one": 1, "pool": 2, "threads": 5, "tasks": 5}[model]
        arguments = ("--model", model, "--threads", "2", "tcp://127.0.0.1:0")
        with (
            running("time_server", *arguments, folder=tmp_path) as server,
            contextlib.ExitStack() as stack,
        ):
            clients = [stack.enter_context(connected(server.ports[0])) for _ in range(5)]
            for each in clients:
                each.sendall(b"hello")
            served: list[socket.socket] = []
            while len(served) < at_once:
                each = next(each for each in clients if each not in served)
                assert each.recv(100).endswith(b"] hello")
                served.append(each)
            for each in clients:
                if each not in served:
                    each.settimeout(0.05)
                    with pytest.raises(TimeoutError):
                        each.recv(100)
                    each.settimeout(TIMEOUT)
            # Those who wait are served when others have left.
            for each in clients:
                if each not in served:
                    served.pop(0).close()
                    assert each.recv(100).endswith(b"] hello")
                    served.append(each)

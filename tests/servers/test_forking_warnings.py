"""A child that was forked is known and reaped, whatever os.fork() has raised in its parent.

Python 3.15 raises there, where warnings are errors, that the process has threads. The tests
have any Python do so.
"""

import asyncio
import errno
import os
import socket
import socketserver
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests import compat_support
from tests.forking_support import all_reaped, ask
from tests.support import until

LOCALHOST = ("127.0.0.1", 0)
MESSAGE = "This process is multi-threaded, use of fork() may lead to deadlocks"

RAISED = [DeprecationWarning(MESSAGE), RuntimeError("of a hook")]


class Tell(socketserver.StreamRequestHandler):
    """Answers each line with its process id, until the client has finished."""

    def handle(self) -> None:
        for _ in self.rfile:
            self.wfile.write(b"%d\n" % os.getpid())


def have_fork_raise(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the parent, when there is a child."""
    fork = os.fork

    def raising() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if fork() == 0:
                return 0
        raise error

    monkeypatch.setattr(os, "fork", raising)


@pytest.fixture(params=RAISED, ids=lambda error: type(error).__name__)
def raised(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BaseException:
    """What os.fork() raises."""
    have_fork_raise(request.param, monkeypatch)
    error: BaseException = request.param
    return error


def check_answers(answer: bytes) -> None:
    """Both lines were answered by one process, and not by this one."""
    one, two = map(int, answer.split())
    assert one == two
    assert one != os.getpid()


async def serve(server: Any, error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async with server:
        await server.start_serving()
        for _ in range(2):
            check_answers(await ask(server.server_address, b"1\n2\n"))
        await all_reaped(server)
        assert server.active_children == set()
    assert server.statistics.finished == 2
    assert server.statistics.handlers_failed == 0
    record = caplog.records[0]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "although os.fork() has raised" in record.getMessage()


async def test_tcp(raised: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    await serve(aiosocketserver.ForkingTCPServer(LOCALHOST, Tell), raised, caplog)


async def test_unix(
    raised: BaseException, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    server = aiosocketserver.ForkingUnixStreamServer(str(tmp_path / "s"), Tell)
    await serve(server, raised, caplog)


async def test_udp(raised: BaseException) -> None:
    class Echo(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"%d" % os.getpid())

    server = aiosocketserver.ForkingUDPServer(LOCALHOST, Echo)
    async with server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(server.server_address)
            client.send(b"?")
            answer = await asyncio.get_running_loop().sock_recv(client, 100)
        assert int(answer) != os.getpid()
        await all_reaped(server)
    assert server.statistics.handlers_failed == 0


@pytest.mark.parametrize("loop", compat_support.LOOP_NAMES)
def test_compat(raised: BaseException, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException | None] = []

    class Server(compat.ForkingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            told.append(sys.exception())

    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", loop)
    with compat_support.serving(Server(LOCALHOST, Tell)) as server:
        check_answers(compat_support.ask(server.server_address, b"1\n2\n"))
        assert not server.active_children or len(server.active_children) == 1
    assert server.active_children == set()
    assert told == [raised]
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_compat_in_handle_request(raised: BaseException) -> None:
    class Server(compat.ForkingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            assert sys.exception() is raised

    with Server(LOCALHOST, Tell) as server, compat_support.connect(server.server_address) as client:
        client.sendall(b"1\n2\n")
        server.handle_request()
        client.shutdown(socket.SHUT_WR)
        check_answers(compat_support.receive_all(client))
        assert server.active_children is not None
        assert len(server.active_children) == 1


async def test_an_exit_ends_the_server_when_the_child_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    have_fork_raise(KeyboardInterrupt(), monkeypatch)
    async with aiosocketserver.ForkingTCPServer(LOCALHOST, Tell) as server:
        client = asyncio.create_task(ask(server.server_address, b"1\n2\n"))
        with pytest.raises(KeyboardInterrupt):
            await server.serve_forever()
        check_answers(await client)
    assert server.active_children == set()


async def test_what_is_raised_before_there_is_a_child_is_the_requests_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fork() -> int:
        raise PermissionError(errno.EPERM, "no processes for you")

    monkeypatch.setattr(os, "fork", fork)
    descriptors = len(os.listdir("/proc/self/fd"))
    async with aiosocketserver.ForkingTCPServer(LOCALHOST, Tell) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert server.active_children == set()
        await until(lambda: server.statistics.handlers_failed == 1)
    assert "no processes for you" in caplog.text
    assert "although" not in caplog.text
    assert len(os.listdir("/proc/self/fd")) <= descriptors


async def test_a_child_is_forked_when_no_descriptor_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def pipe() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    async with aiosocketserver.ForkingTCPServer(LOCALHOST, Tell) as server:
        await server.start_serving()
        monkeypatch.setattr(os, "pipe", pipe)
        check_answers(await ask(server.server_address, b"1\n2\n"))
        monkeypatch.undo()


PROGRAM = """
import os, socket, socketserver as standard, sys, threading
from {module} import ForkingTCPServer
from aiosocketserver import compat

class Handler(standard.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline() + b"%d" % os.getpid())

def visit(server):
    with socket.create_connection(server.server_address) as client:
        client.sendall(b"hello\\n")
        answer = b""
        while block := client.recv(100):
            answer += block
    line, pid = answer.split()
    assert (line, int(pid) != os.getpid()) == (b"hello", True), answer
"""
COMPAT = """
with ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    visit(server)
    server.shutdown()
    thread.join()
assert not server.active_children
"""
NATIVE = """
import asyncio
async def main():
    async with ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        await asyncio.to_thread(visit, server)
    assert not server.active_children
asyncio.run(main())
"""
END = """
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("all is well")
"""


@pytest.mark.parametrize(
    "program",
    [
        PROGRAM.format(module="aiosocketserver") + NATIVE + END,
        PROGRAM.format(module="aiosocketserver.compat") + COMPAT + END,
    ],
    ids=["native", "compat"],
)
def test_a_program_whose_warnings_are_errors(program: str) -> None:
    """With threads of its own, as Python itself does it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "all is well\n"), done.stderr
    # What earlier versions do not raise, they drop.
    raises = sys.version_info >= (3, 15)
    assert ("DeprecationWarning" in done.stderr) is raises, done.stderr


@pytest.mark.filterwarnings("default:.*multi-threaded.*fork:DeprecationWarning")
def test_a_warning_is_given_once_for_each_place(recwarn: pytest.WarningsRecorder) -> None:
    """A fork must not have the process forget which it has given."""

    def warn() -> None:
        warnings.warn("of the program", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with compat_support.serving(compat.ForkingTCPServer(LOCALHOST, Tell)) as server:
            for _ in range(3):
                warn()
                check_answers(compat_support.ask(server.server_address, b"1\n2\n"))
    assert [str(each.message) for each in caught].count("of the program") == 1

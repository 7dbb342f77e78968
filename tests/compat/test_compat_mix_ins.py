"""ThreadingMixIn and ForkingMixIn of compat: what a program sees of its threads and children."""

import contextvars
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import (
    BOUND,
    IMPLEMENTATIONS,
    LOOP_NAMES,
    ask,
    connect,
    implementation,
    serving,
)

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


def calling(module: Any, function: Any) -> Any:
    """A handler that answers with what `function` returns."""

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.sendall(repr(function()).encode())

    return Handler


# Threads

colour = contextvars.ContextVar("colour", default="none")


@pytest.mark.parametrize("daemon", [True, False])
def test_a_request_s_thread_is_a_daemon_as_asked(module: Any, daemon: bool) -> None:
    def look() -> object:
        before = colour.get()
        colour.set("red")
        thread = threading.current_thread()
        return thread.daemon, thread.name.partition(" ")[2], before

    colour.set("blue")
    server_class = type("Server", (module.ThreadingTCPServer,), {"daemon_threads": daemon})
    with serving(server_class(ADDRESS, calling(module, look))) as server:
        for _ in range(3):
            answer = ask(server.server_address)
            assert answer == repr((daemon, "(process_request_thread)", "none")).encode()


@pytest.mark.parametrize(("reuse", "fresh"), [(True, 1), (False, 3)])
def test_thread_local_data_lasts_as_long_as_the_thread(loop: str, reuse: bool, fresh: int) -> None:
    local = threading.local()

    def look() -> bool:
        seen = hasattr(local, "seen")
        local.seen = True
        return seen

    class Server(compat.ThreadingTCPServer):
        reuse_threads = reuse

    with serving(Server(ADDRESS, calling(compat, look))) as server:
        answers = []
        for _ in range(3):
            answers.append(ask(server.server_address))
            server._threads.join()
    assert answers.count(b"False") == fresh


@pytest.mark.parametrize("block", [True, False])
def test_server_close_waits_for_threads_if_asked(module: Any, block: bool) -> None:
    begun, released, ended = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        released.wait(BOUND)
        ended.set()

    server_class = type("Server", (module.ThreadingTCPServer,), {"block_on_close": block})
    server = server_class(ADDRESS, calling(module, wait))
    with connect(server.server_address):
        server.handle_request()
        assert begun.wait(BOUND)
        if block:
            threading.Timer(0.1, released.set).start()
            server.server_close()
            assert ended.is_set()
        else:
            server.server_close()
            assert not ended.is_set()
            released.set()
            assert ended.wait(BOUND)


def test_server_close_in_a_request_s_own_thread_is_an_error(module: Any) -> None:
    errors: list[str] = []

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            errors.append(str(sys.exception()))

    server: Any = Server(ADDRESS, calling(module, lambda: server.server_close()))
    with serving(server):
        assert ask(server.server_address) == b""
    assert errors == ["cannot join current thread"]


def test_handle_request_leaves_the_thread_to_itself(module: Any) -> None:
    with (
        module.ThreadingTCPServer(ADDRESS, calling(module, threading.get_ident)) as server,
        connect(server.server_address) as client,
    ):
        server.handle_request()
        assert int(client.recv(100)) != threading.get_ident()


# Children

PROGRAM = """\
import os, signal, socket, sys, threading, time
{imports}

def ask(address=None, text=b""):
    with socket.create_connection(address or server.server_address, 20) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        return client.makefile("rb").read()

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        text = self.request.recv(10)
        if text == b"fail":
            raise ValueError("of the handler")
        if text == b"wait":
            self.request.recv(10)
        if text == b"shutdown":
            try:
                self.server.shutdown()
            except RuntimeError as error:
                text = str(error)[:40].encode()
        print("a line that os._exit() loses")
        self.request.sendall(text + b" %d" % os.getpid())

class Server(socketserver.ForkingTCPServer):
    request_queue_size = 50

server = Server(("127.0.0.1", 0), Handler)

def in_thread():
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    return thread

def status_of(pid):
    # Not reaped: somebody else's.
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)

{body}
"""


def run(name: str, body: str) -> str:
    """What a program with a forking server prints."""
    imports = (
        "import socketserver"
        if name == "socketserver"
        else f"os.environ['AIOSOCKETSERVER_LOOP'] = {name!r}\n"
        "from aiosocketserver import compat as socketserver"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(imports=imports, body=body)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_each_request_has_a_child_and_its_prints_are_lost(name: str) -> None:
    body = """
print(server.active_children)
thread = in_thread()
pids = {int(ask(text=b"a").split()[1]) for _ in range(5)}
print(len(pids), os.getpid() in pids, type(server.active_children))
server.shutdown(); thread.join(); server.server_close()
print(server.active_children)
"""
    expected = ["None", "5 False <class 'set'>", "set()"]
    assert run(name, body).splitlines() == expected


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_exit_codes_of_children(name: str) -> None:
    body = """
codes = []
real = os.waitpid
def waitpid(pid, flags):
    pid, status = real(pid, flags)
    if pid: codes.append(os.waitstatus_to_exitcode(status))
    return pid, status
os.waitpid = waitpid
for text in (b"a", b"fail"):
    asking = threading.Thread(target=ask, args=(None, text))
    asking.start()
    server.handle_request()
    asking.join()
    server.collect_children(blocking=True)
server.server_close()
print(codes)
"""
    assert run(name, body) == "[0, 1]\n"


@pytest.mark.parametrize("name", LOOP_NAMES)
def test_children_are_reaped_as_they_end_and_nobody_else_s(name: str) -> None:
    body = """
foreign = os.fork()
if not foreign: os._exit(7)
thread = in_thread()
for _ in range(3): ask(text=b"a")
wait_until(lambda: server.active_children == set())
print(status_of(foreign))
server.shutdown(); thread.join(); server.server_close()
"""
    assert run(name, body) == "7\n"


@pytest.mark.parametrize("name", LOOP_NAMES)
def test_at_max_children_the_backlog_holds_the_rest(name: str) -> None:
    body = """
Server.max_children = 2
thread = in_thread()
clients = [socket.create_connection(server.server_address, 20) for _ in range(4)]
for client in clients: client.sendall(b"wait")
wait_until(lambda: len(server.active_children or ()) == 2)
clients[2].settimeout(0.2)
try: clients[2].recv(10)
except TimeoutError: print("waits", len(server.active_children))
clients[2].settimeout(20)
for client in clients:
    client.shutdown(socket.SHUT_WR)
    print(client.recv(10)[:4])
server.shutdown(); thread.join(); server.server_close()
"""
    assert run(name, body).splitlines() == ["waits 2", *["b'wait'"] * 4]


@pytest.mark.parametrize("name", LOOP_NAMES)
def test_a_sigchld_handler_that_reaps_everything_does_no_harm(name: str) -> None:
    body = """
def reap(*args):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]: pass
    except ChildProcessError: pass
signal.signal(signal.SIGCHLD, reap)
thread = in_thread()
print([ask(text=b"a")[:1] for _ in range(5)])
wait_until(lambda: server.active_children == set())
server.shutdown(); thread.join(); server.server_close()
"""
    assert run(name, body) == f"{[b'a'] * 5}\n"


@pytest.mark.parametrize("name", LOOP_NAMES)
def test_shutdown_in_a_child_is_an_error_and_no_deadlock(name: str) -> None:
    body = """
thread = in_thread()
print(ask(text=b"shutdown")[:40])
server.shutdown(); thread.join(); server.server_close()
"""
    assert run(name, body) == "b'shutdown() waits for the end of serve_fo'\n"

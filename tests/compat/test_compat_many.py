"""Many legacy connections: all served, none starved, and nothing left of them."""

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, implementation, serving

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Echo(compat.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Server(compat.ThreadingTCPServer):
    request_queue_size = 1024


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_connections_that_idle_between_requests_are_served() -> None:
    with serving(Server(ADDRESS, Echo)) as server:
        clients = [connect(server.server_address) for _ in range(1000)]
        try:
            for number in range(2):
                for client in clients:
                    client.sendall(b"%d\n" % number)
                for client in clients:
                    assert client.recv(10) == b"%d\n" % number
        finally:
            for client in clients:
                client.close()


@pytest.mark.parametrize("count", [33, 100, 500])
def test_long_lived_handlers_do_not_starve_one_more(count: int) -> None:
    class Blocking(compat.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(1) == b"b":
                released.wait(BOUND)
            self.request.sendall(b"done")

    released = threading.Event()
    with serving(Server(ADDRESS, Blocking)) as server:
        blocked = [connect(server.server_address) for _ in range(count)]
        for client in blocked:
            client.sendall(b"b")
        assert ask(server.server_address, b"q") == b"done"
        released.set()
        for client in blocked:
            assert client.recv(4) == b"done"
            client.close()


def test_threads_of_a_burst_end() -> None:
    with serving(Server(ADDRESS, Echo)) as server:
        before = set(threading.enumerate())
        clients = [connect(server.server_address) for _ in range(50)]
        for client in clients:
            client.sendall(b"a\n")
            assert client.recv(2) == b"a\n"
        burst = set(threading.enumerate()) - before
        assert len(burst) == 50
        for client in clients:
            client.close()
        for thread in burst:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in burst)


def descriptors() -> set[str]:
    # The one that lists the folder is gone when it is asked for.
    return {name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


@pytest.mark.parametrize("mix_in", ["Threading", "Forking"])
def test_nothing_is_left_after_server_close(mix_in: str) -> None:
    class OneLine(compat.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    before, descriptors_before = threading.active_count(), descriptors()
    server: Any = getattr(compat, f"{mix_in}TCPServer")(ADDRESS, OneLine)
    serve = threading.Thread(target=server.serve_forever)
    serve.start()
    for _ in range(20):
        assert ask(server.server_address, b"a\n") == b"a\n"
    server.shutdown()
    serve.join(BOUND)
    server.server_close()
    assert threading.active_count() == before
    assert descriptors() == descriptors_before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


MEMORY = """
import gc, os, socket, threading
from aiosocketserver import compat

class Handler(compat.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(10))

class Server(compat.ThreadingTCPServer):
    request_queue_size = 128

def use(count):
    for _ in range(count):
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"a")
            client.recv(1)
            client.recv(1)

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

with Server(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever).start()
    use(5000)
    before, objects = resident(), len(gc.get_objects())
    use(45000)
    print(resident() - before, len(gc.get_objects()) - objects)
    server.shutdown()
"""


# Ten seconds of a processor, which others may want as well.
@pytest.mark.timeout(400)
def test_memory_does_not_grow_over_fifty_thousand_connections() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if "COVERAGE" not in name},
        capture_output=True,
        text=True,
        timeout=350,
        check=True,
    )
    grown, objects = map(int, done.stdout.split())
    # 20 bytes for a connection would be 900,000.
    assert grown < 800_000
    assert objects < 1000


def test_at_max_threads_the_backlog_holds_the_rest() -> None:
    class Limited(Server):
        max_threads = 2

    class Blocking(compat.BaseRequestHandler):
        def handle(self) -> None:
            begun.release()
            self.request.recv(1)
            self.request.sendall(b"done")

    begun = threading.Semaphore(0)
    with serving(Limited(ADDRESS, Blocking)) as server:
        clients = [connect(server.server_address) for _ in range(3)]
        assert begun.acquire(timeout=BOUND)
        assert begun.acquire(timeout=BOUND)
        # The third waits, for as long as both are busy.
        assert not begun.acquire(timeout=0.1)
        clients[0].sendall(b"x")
        assert begun.acquire(timeout=BOUND)
        for client in clients[1:]:
            client.sendall(b"x")
        for client in clients:
            assert client.recv(4) == b"done"
            client.close()

"""tcp_proxy.py, with curl and with raw ends, on both loops, by splice() and without it."""

import contextlib
import functools
import hashlib
import http.server
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from examples.tcp_proxy import address
from tests.deploy_support import Command, receive_all
from tests.example_support import LOOPS, TIMEOUT, problem, running

# close() sends a reset (socket(7)).
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """A running program, and the listening socket of its upstream."""

    def __init__(self, program: Command, listener: socket.socket) -> None:
        self.program = program
        self.listener = listener
        (self.port,) = program.ports

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)

    @contextlib.contextmanager
    def connected(self) -> Generator[tuple[socket.socket, socket.socket]]:
        """A client, and the upstream's end of its connection."""
        with self.connect() as client:
            upstream, _ = self.listener.accept()
            with upstream:
                upstream.settimeout(TIMEOUT)
                yield client, upstream

    def told(self) -> str:
        """What the program tells of the next connection that ends."""
        return self.program.until(r"^\('127.0.0.1', \d+\): (.*)")[1]

    def descriptors(self) -> list[str]:
        return os.listdir(f"/proc/{self.program.process.pid}/fd")

    def memory(self) -> int:
        """Bytes of the program that are in memory."""
        status = Path(f"/proc/{self.program.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s*(\d+) kB", status)[0])


@contextlib.contextmanager
def running_proxy(loop: str, folder: Path, *options: str) -> Generator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT)
        arguments = [*options, f"localhost:{listener.getsockname()[1]}", "tcp://127.0.0.1:0"]
        with running("tcp_proxy", *arguments, loop=loop, folder=folder) as program:
            yield Proxy(program, listener)


@pytest.fixture(
    scope="module",
    params=[(loop, options) for loop in LOOPS for options in ([], ["--no-splice"])],
    ids=lambda parameter: " ".join([parameter[0], *parameter[1]]),
)
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    loop, options = request.param
    with running_proxy(loop, tmp_path_factory.mktemp("proxy"), *options) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared: Proxy) -> Iterator[Proxy]:
    """One that has all its descriptors closed after the test, those of pipes too."""
    before = len(shared.descriptors())
    yield shared
    # Nothing tells when another process closes a descriptor, hence the polling.
    deadline = time.monotonic() + TIMEOUT
    while len(shared.descriptors()) > before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection ends in a reset, and not as if all had come."""
    try:
        receive_all(sock)
    except ConnectionResetError:
        return True
    return False


def send_on(sock: socket.socket) -> NoReturn:
    """Send until it breaks: after the peer's end it is send() alone that tells of a reset."""
    while True:
        sock.sendall(b"more")


@contextlib.contextmanager
def web_server(listener: socket.socket, folder: Path) -> Generator[None]:
    """The standard library's, on a socket that listens already."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("size", [1, 50_000_000])
def test_curl_gets_a_file(
    proxy: Proxy, size: int, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    curl = require_program("curl")
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    with web_server(proxy.listener, tmp_path):
        command = [curl, "-sS", "--fail", f"http://127.0.0.1:{proxy.port}/file"]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=True)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(content).digest()
    told = re.fullmatch(r"done, \d+ bytes up, (\d+) down", proxy.told())
    assert told
    assert int(told[1]) > size


def test_each_side_may_end_first_and_gets_the_rest_of_the_other(proxy: Proxy) -> None:
    for first in (0, 1):
        with proxy.connected() as ends:
            one, other = ends[first], ends[1 - first]
            one.sendall(b"question")
            one.shutdown(socket.SHUT_WR)
            assert receive_all(other) == b"question"
            other.sendall(b"the answer")
            other.shutdown(socket.SHUT_WR)
            assert receive_all(one) == b"the answer"
        assert proxy.told() == f"done, {[8, 10][first]} bytes up, {[10, 8][first]} down"


def test_a_reset_is_passed_on(proxy: Proxy) -> None:
    for one in (0, 1):
        with proxy.connected() as ends:
            ends[one].sendall(b"begun")
            assert ends[1 - one].recv(100) == b"begun"
            reset(ends[one])
            assert is_reset(ends[1 - one])
        assert "Connection reset by peer" in proxy.told()


def test_a_reset_that_is_seen_together_with_bytes_for_both(proxy: Proxy) -> None:
    with proxy.connected() as (client, upstream):
        client.sendall(b"x")
        assert upstream.recv(1) == b"x"
        proxy.program.process.send_signal(signal.SIGSTOP)
        upstream.sendall(b"y")
        client.sendall(b"z")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        proxy.program.process.send_signal(signal.SIGCONT)
        assert re.search("reset by peer|Broken pipe", proxy.told())
    assert not any("Traceback" in line for line in proxy.program.lines)


def test_a_reset_after_the_end_is_found_when_bytes_come_for_it(proxy: Proxy) -> None:
    with proxy.connected() as (client, upstream):
        client.shutdown(socket.SHUT_WR)
        assert receive_all(upstream) == b""
        reset(client)
        with pytest.raises(ConnectionError):
            send_on(upstream)
    assert re.match(r".*(reset by peer|Broken pipe), 0 bytes up", proxy.told())


def test_who_does_not_read_stops_the_other_and_loses_nothing(proxy: Proxy) -> None:
    block = os.urandom(1024 * 1024)
    limit = 64
    for one in (0, 1):
        with proxy.connected() as ends:
            sender, reader = ends[one], ends[1 - one]
            before = proxy.memory()
            sender.setblocking(False)
            sent = bytearray()
            while select.select([], [sender], [], 0.5)[1]:
                sent += block[: sender.send(block)]
                assert len(sent) < limit * len(block)
            assert proxy.memory() - before < 8 * len(block)
            sender.shutdown(socket.SHUT_WR)
            assert receive_all(reader) == sent
            reader.close()
        proxy.told()


def test_many_connections(proxy: Proxy) -> None:
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(proxy.connected()) for _ in range(100)]
        for number, (client, _) in enumerate(pairs):
            client.sendall(b"%d" % number)
        for number, (_, upstream) in enumerate(pairs):
            assert upstream.recv(100) == b"%d" % number
    for _ in pairs:
        assert proxy.told().startswith("done, ")


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_an_upstream_that_refuses_ends_the_connection_and_is_told(
    loop: str, tmp_path: Path
) -> None:
    with running_proxy(loop, tmp_path) as proxy:
        proxy.listener.close()
        with proxy.connect() as client:
            assert receive_all(client) == b""
        told = proxy.told()
        assert told.startswith("no connection to the upstream: ")
        assert told.endswith("Connection refused")


# Takes a connection, and one byte of it.
UPSTREAM = """
import socket, sys
connection, _ = socket.socket(fileno=int(sys.argv[1])).accept()
connection.recv(1)
print("taken", flush=True)
sys.stdin.read()
"""


def test_the_reset_of_an_upstream_that_is_killed_is_passed_on(loop: str, tmp_path: Path) -> None:
    with running_proxy(loop, tmp_path) as proxy:
        descriptor = proxy.listener.fileno()
        upstream = subprocess.Popen(
            [sys.executable, "-c", UPSTREAM, str(descriptor)],
            pass_fds=[descriptor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with upstream, proxy.connect() as client:
            client.sendall(b"xx")
            assert upstream.stdout is not None
            assert upstream.stdout.readline() == b"taken\n"
            upstream.kill()
            assert is_reset(client)
        assert "Connection reset by peer" in proxy.told()


def test_a_connection_on_which_nothing_moves_is_reset(loop: str, tmp_path: Path) -> None:
    with running_proxy(loop, tmp_path, "--idle", "0.5") as proxy:
        with proxy.connected() as (client, upstream):
            assert is_reset(client)
            assert is_reset(upstream)
        assert proxy.told() == "idle, 0 bytes up, 0 down"


class TestSigterm:
    def test_a_transfer_goes_on_until_it_is_done(self, loop: str, tmp_path: Path) -> None:
        content = os.urandom(30_000_000)
        with running_proxy(loop, tmp_path) as proxy, proxy.connected() as (client, upstream):
            sender = threading.Thread(target=upstream.sendall, args=(content,))
            sender.start()
            first = client.recv(1)
            proxy.program.process.send_signal(signal.SIGTERM)
            proxy.program.until("draining")
            client.shutdown(socket.SHUT_WR)
            rest = bytearray()
            while len(rest) < len(content) - 1:
                rest += client.recv(1024 * 1024)
            assert first + rest == content
            sender.join()
            upstream.close()
            assert receive_all(client) == b""
            assert proxy.told() == "done, 0 bytes up, 30000000 down"
            assert proxy.program.wait() == 0

    def test_one_that_goes_on_after_the_deadline_is_reset(self, loop: str, tmp_path: Path) -> None:
        with (
            running_proxy(loop, tmp_path, "--drain", "0.5") as proxy,
            proxy.connected() as (client, upstream),
        ):
            client.sendall(b"first ")
            assert upstream.recv(100) == b"first "
            proxy.program.process.send_signal(signal.SIGTERM)
            assert is_reset(client)
            assert is_reset(upstream)
            assert proxy.told() == "cut, 6 bytes up, 0 down"
            assert proxy.program.wait() == 0


@pytest.mark.parametrize("text", ["x", ":80", "x:0", "x:70000", "x:http", "a..b:80", "http://x:80"])
def test_the_upstream_has_to_be_a_host_and_a_port(text: str) -> None:
    with pytest.raises(ValueError):
        address(text)


def test_a_wrong_bind_is_told_in_one_line() -> None:
    assert "cannot bind" in problem("tcp_proxy", "localhost:80", "tcp://127.0.0.1:x")

"""compat with greenlets where a program asks for threads."""

import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import ask, connect, receive_all, serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", request.param)


class Named(socketserver.StreamRequestHandler):
    """Answers each line with the name of its thread."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(threading.current_thread().name.encode() + b" " + line)


def servers() -> list[Any]:
    return [
        compat.GreenletTCPServer,
        type("Mixed", (compat.GreenletMixIn, socketserver.TCPServer), {}),
        type("Chosen", (compat.ThreadingTCPServer,), {"greenlets": True}),
    ]


@pytest.mark.parametrize("number", range(3))
def test_connections_are_served_by_the_thread_that_serves(number: int) -> None:
    server_class = servers()[number]
    server_class.request_queue_size = 128
    with serving(server_class(("127.0.0.1", 0), Named)) as server:
        names = set()
        clients = [connect(server.server_address) for _ in range(50)]
        for client in clients:
            client.sendall(b"hello\n")
        for client in clients:
            client.shutdown(socket.SHUT_WR)
            name, _, line = receive_all(client).rpartition(b" ")
            assert line == b"hello\n"
            names.add(name)
            client.close()
    assert len(names) == 1
    assert b"process_request_thread" not in names.pop()


def test_unix_stream_server(tmp_path: Path) -> None:
    with serving(compat.GreenletUnixStreamServer(str(tmp_path / "s"), Named)) as server:
        assert ask(server.server_address, b"hello\n").endswith(b" hello\n")


def test_the_environment_decides_for_what_asks_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_GREENLETS", "1")
    with serving(compat.ThreadingTCPServer(("127.0.0.1", 0), Named)) as server:
        assert b"process_request_thread" not in ask(server.server_address, b"hello\n")
    monkeypatch.setenv("AIOSOCKETSERVER_GREENLETS", "0")
    with serving(compat.ThreadingTCPServer(("127.0.0.1", 0), Named)) as server:
        assert b"process_request_thread" in ask(server.server_address, b"hello\n")


def test_datagrams_go_to_threads() -> None:
    class Server(compat.GreenletMixIn, compat.UDPServer):
        pass

    class Name(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(threading.current_thread().name.encode())

    with (
        serving(Server(("127.0.0.1", 0), Name)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(20)
        client.sendto(b"?", server.server_address)
        assert b"process_request_thread" in client.recv(100)


def test_sockets_of_a_program_s_own_class_go_to_threads() -> None:
    """As an ssl.SSLSocket, which waits in its own way."""

    class Own(socket.socket):
        pass

    class Server(compat.GreenletTCPServer):
        def get_request(self) -> tuple[Any, Any]:
            connection, address = super().get_request()
            return Own(fileno=connection.detach()), address

    with serving(Server(("127.0.0.1", 0), Named)) as server:
        assert b"process_request_thread" in ask(server.server_address, b"hello\n")


def test_hooks_are_the_programs_own() -> None:
    called: list[str] = []

    class Traced(compat.GreenletTCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            called.append("verify_request")
            return True

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            called.append("process_request_thread")
            super().process_request_thread(request, client_address)

        def finish_request(self, request: Any, client_address: Any) -> None:
            called.append("finish_request")
            assert isinstance(request, socket.socket)
            super().finish_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            called.append(f"handle_error {sys.exception()!r}")

        def shutdown_request(self, request: Any) -> None:
            called.append("shutdown_request")
            super().shutdown_request(request)

        def close_request(self, request: Any) -> None:
            called.append("close_request")
            super().close_request(request)

    class Fails(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError(self.request.recv(100))

    with serving(Traced(("127.0.0.1", 0), Fails)) as server:
        assert ask(server.server_address, b"wrong") == b""
    assert called == [
        "verify_request",
        "process_request_thread",
        "finish_request",
        "handle_error ValueError(b'wrong')",
        "shutdown_request",
        "close_request",
    ]


def test_handle_request_serves_in_a_thread() -> None:
    with (
        compat.GreenletTCPServer(("127.0.0.1", 0), Named) as server,
        connect(server.server_address) as client,
    ):
        client.sendall(b"hello\n")
        server.handle_request()
        client.shutdown(socket.SHUT_WR)
        assert b"process_request_thread" in receive_all(client)


def test_the_ways_to_threads_and_to_the_loop() -> None:
    async def answer(word: str) -> str:
        return word.upper()

    class Crosses(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server: Any = self.server
            name = server.run_blocking(lambda: threading.current_thread().name)
            here = threading.current_thread().name
            word = server.run_on_loop(answer, "loop")
            self.request.sendall(f"{name != here} {word}".encode())

    with serving(compat.GreenletTCPServer(("127.0.0.1", 0), Crosses)) as server:
        assert ask(server.server_address) == b"True LOOP"


def test_a_handler_that_waits_is_cut_when_serving_ends() -> None:
    ended: list[str] = []

    class Waits(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"begun")
            self.request.recv(1)

        def finish(self) -> None:
            ended.append("finish")

    server = compat.GreenletTCPServer(("127.0.0.1", 0), Waits)
    server.shutdown_timeout = 0
    with serving(server), connect(server.server_address) as client:
        assert client.recv(5) == b"begun"
        server.shutdown()
        assert receive_all(client) == b""
    assert ended == ["finish"]


def test_http_server_under_install(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("hello")
    program = (
        "import sys; from aiosocketserver import compat; compat.install(greenlets=True)\n"
        "import threading, functools, urllib.request\n"
        "from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer\n"
        f"handler = functools.partial(SimpleHTTPRequestHandler, directory={str(tmp_path)!r})\n"
        "server = ThreadingHTTPServer(('127.0.0.1', 0), handler)\n"
        "names = []\n"
        "finish = server.finish_request\n"
        "def finish_request(*args): names.append(threading.current_thread().name); finish(*args)\n"
        "server.finish_request = finish_request\n"
        "thread = threading.Thread(target=server.serve_forever, name='serves'); thread.start()\n"
        "url = 'http://127.0.0.1:%d/page.txt' % server.server_port\n"
        "print(urllib.request.urlopen(url).read().decode(), names)\n"
        "server.shutdown(); thread.join(); server.server_close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "hello ['serves']\n"


def test_command_line(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import socketserver, threading, sys\n"
        "class H(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        self.request.sendall(threading.current_thread().name.encode())\n"
        "with socketserver.ThreadingTCPServer(('127.0.0.1', 0), H) as server:\n"
        "    print(server.server_address[1], flush=True)\n"
        "    server.serve_forever()\n"
    )
    for flags, expected in ((["--greenlets"], b"MainThread"), ([], b"process_request_thread")):
        with subprocess.Popen(
            [sys.executable, "-m", "aiosocketserver.compat", *flags, "program.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                port = int(process.stdout.readline())
                assert expected in ask(("127.0.0.1", port))
            finally:
                process.terminate()


def test_without_greenlet_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['greenlet'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "aiosocketserver.compat", "--greenlets", "program.py"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install aiosocketserver[greenlet]" in done.stderr


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    assert compat.ThreadingMixIn.greenlets is None

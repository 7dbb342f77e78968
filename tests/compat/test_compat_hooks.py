"""Hooks as programs override them: the same calls, in the same order and threads, as there."""

import functools
import queue
import socket
import threading
from typing import Any

import pytest

from tests.compat_support import BOUND, IMPLEMENTATIONS, ask, connect, implementation, serving

ADDRESS = ("127.0.0.1", 0)

HOOKS = [
    "get_request",
    "verify_request",
    "process_request",
    "process_request_thread",
    "finish_request",
    "shutdown_request",
    "close_request",
    "handle_error",
]


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


def echo(module: Any, *, fails: bool = False) -> Any:
    class Echo(module.StreamRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())
            if fails:
                raise ValueError("of the handler")

    return Echo


EXPECTED = {
    ("TCPServer", False): [
        ("get_request", "server"),
        ("verify_request", "server"),
        ("process_request", "server"),
        ("finish_request", "server"),
        ("shutdown_request", "server"),
        ("close_request", "server"),
    ],
    ("TCPServer", True): [
        ("get_request", "server"),
        ("verify_request", "server"),
        ("process_request", "server"),
        ("finish_request", "server"),
        ("handle_error", "server"),
        ("shutdown_request", "server"),
        ("close_request", "server"),
    ],
    ("ThreadingTCPServer", False): [
        ("get_request", "server"),
        ("verify_request", "server"),
        ("process_request", "server"),
        ("process_request_thread", "request"),
        ("finish_request", "request"),
        ("shutdown_request", "request"),
        ("close_request", "request"),
    ],
    ("ThreadingTCPServer", True): [
        ("get_request", "server"),
        ("verify_request", "server"),
        ("process_request", "server"),
        ("process_request_thread", "request"),
        ("finish_request", "request"),
        ("handle_error", "request"),
        ("shutdown_request", "request"),
        ("close_request", "request"),
    ],
}


@pytest.mark.parametrize(("name", "fails"), EXPECTED)
def test_order_of_calls_and_their_threads(module: Any, name: str, fails: bool) -> None:
    calls: list[tuple[str, str]] = []
    base = getattr(module, name)

    def traced(hook: str) -> Any:
        def call(self: Any, *args: Any) -> Any:
            where = "server" if threading.current_thread().name == "serving" else "request"
            calls.append((hook, where))
            return None if hook == "handle_error" else getattr(base, hook)(self, *args)

        return call

    hooks = {hook: traced(hook) for hook in HOOKS if hasattr(base, hook)}
    server = type("Server", (base,), hooks)(ADDRESS, echo(module, fails=fails))
    serve = threading.Thread(target=server.serve_forever, name="serving")
    serve.start()
    assert ask(server.server_address, b"one\n") == b"one\n"
    server.shutdown()
    serve.join(BOUND)
    server.server_close()
    assert calls == EXPECTED[name, fails]


def test_verify_request_turns_away(module: Any) -> None:
    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return False

    with (
        serving(Server(ADDRESS, echo(module))) as server,
        connect(server.server_address) as client,
    ):
        assert client.recv(1) == b""


def test_get_request_sets_a_time_out_and_a_richer_address(module: Any) -> None:
    seen: list[Any] = []

    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def get_request(self) -> tuple[Any, Any]:
            request, address = super().get_request()
            request.settimeout(0.05)
            return request, {"address": address}

        def handle_error(self, request: Any, client_address: Any) -> None:
            seen.append(client_address)

    with (
        serving(Server(ADDRESS, echo(module))) as server,
        connect(server.server_address) as client,
    ):
        expected = {"address": client.getsockname()}
        assert client.recv(1) == b""
    assert seen == [expected]


def test_a_pool_of_the_program_s_own(module: Any) -> None:
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    class Server(module.TCPServer):  # type: ignore[misc]
        def process_request(self, request: Any, client_address: Any) -> None:
            requests.put((request, client_address))

        def work(self) -> None:
            while (job := requests.get()) is not None:
                self.finish_request(*job)
                self.shutdown_request(job[0])

    server = Server(ADDRESS, echo(module))
    workers = [threading.Thread(target=server.work) for _ in range(3)]
    for worker in workers:
        worker.start()
    with serving(server):
        for _ in range(10):
            assert ask(server.server_address, b"one\n") == b"one\n"
    for _ in workers:
        requests.put(None)
    for worker in workers:
        worker.join(BOUND)


def test_process_request_thread_is_extended_and_borrowed(module: Any) -> None:
    calls: list[str] = []

    class Extended(module.ThreadingTCPServer):  # type: ignore[misc]
        def process_request_thread(self, request: Any, client_address: Any) -> None:
            calls.append("before")
            super().process_request_thread(request, client_address)
            calls.append(threading.current_thread().name.partition(" ")[2])

    class Borrowed(module.TCPServer):  # type: ignore[misc]
        process_request = module.ThreadingMixIn.process_request_thread

    with serving(Extended(ADDRESS, echo(module))) as server:
        assert ask(server.server_address, b"one\n") == b"one\n"
    assert calls == ["before", "(process_request_thread)"]
    with serving(Borrowed(ADDRESS, echo(module))) as server:
        assert ask(server.server_address, b"one\n") == b"one\n"


def test_handlers_that_are_no_plain_class(module: Any) -> None:
    class Greeting(module.BaseRequestHandler):  # type: ignore[misc]
        def __init__(self, *args: Any, word: bytes = b"none") -> None:
            # Before the base's, which serves the whole request.
            self.word = word
            super().__init__(*args)

        def handle(self) -> None:
            self.request.sendall(self.word)

    handlers = {
        b"partial": functools.partial(Greeting, word=b"partial"),
        b"lambda": lambda *args: Greeting(*args, word=b"lambda"),
        b"made": type("Made", (Greeting,), {"handle": lambda self: self.request.sendall(b"made")}),
    }
    for word, handler in handlers.items():
        with serving(module.ThreadingTCPServer(ADDRESS, handler)) as server:
            assert ask(server.server_address) == word


def test_finish_request_without_a_handler_class(module: Any) -> None:
    class Server(module.ThreadingTCPServer):  # type: ignore[misc]
        def finish_request(self, request: Any, client_address: Any) -> None:
            request.sendall(b"answer")

    with serving(Server(ADDRESS, None)) as server:
        assert ask(server.server_address) == b"answer"


def test_handle_error_that_raises_ends_a_plain_server(module: Any) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            # socketserver does not do it when this raises.
            self.shutdown_request(request)
            raise

    with (
        Server(ADDRESS, echo(module, fails=True)) as server,
        connect(server.server_address) as client,
    ):
        client.sendall(b"one\n")
        with pytest.raises(ValueError, match="of the handler"):
            server.serve_forever()


def test_a_server_that_connects_out(module: Any) -> None:
    """As idlelib's: bind does nothing, activate connects, get_request gives that socket."""

    class Server(module.TCPServer):  # type: ignore[misc]
        def server_bind(self) -> None:
            pass

        def server_activate(self) -> None:
            self.socket.connect(self.server_address)

        def get_request(self) -> tuple[Any, Any]:
            return self.socket, self.server_address

    with socket.create_server(ADDRESS) as listener:
        server = Server(listener.getsockname(), echo(module))
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"one\n")
            server.handle_request()
            assert peer.recv(10) == b"one\n"
        server.server_close()


def test_one_server_behind_the_descriptor_of_another_socket(module: Any) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        def fileno(self) -> int:
            return int(self.socket.fileno())

        def _handle_request_noblock(self) -> None:
            handled.append(threading.current_thread().name)
            super()._handle_request_noblock()

    handled: list[str] = []
    with serving(Server(ADDRESS, echo(module))) as server:
        assert ask(server.server_address, b"one\n") == b"one\n"
    assert len(handled) == 1


def test_datagrams_are_answered_from_threads(module: Any) -> None:
    class Upper(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)

    with (
        serving(module.ThreadingUDPServer(ADDRESS, Upper)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BOUND)
        for _ in range(20):
            client.sendto(b"one", server.server_address)
            assert client.recv(10) == b"ONE"

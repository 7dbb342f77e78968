"""The end of serve_forever(): shutdown(), the flag behind it, and server_close()."""

import selectors
import threading
from collections.abc import Callable
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
    in_thread,
    serving,
)

ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


def answering(module: Any) -> Any:
    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.request.sendall(b"answer")

    return Handler


def calling(function: Callable[[], object]) -> Any:
    class Handler(compat.BaseRequestHandler):
        def handle(self) -> None:
            function()
            self.request.sendall(b"answer")

    return Handler


def test_serve_forever_may_follow_a_shutdown(module: Any) -> None:
    with module.TCPServer(ADDRESS, answering(module)) as server:
        for _ in range(3):
            with in_thread(server.serve_forever):
                assert ask(server.server_address) == b"answer"
                server.shutdown()


def test_shutdown_does_not_wait_for_the_poll(loop: str) -> None:
    with (
        compat.TCPServer(ADDRESS, answering(compat)) as server,
        in_thread(lambda: server.serve_forever(poll_interval=3600)),
    ):
        assert ask(server.server_address) == b"answer"
        server.shutdown()


def test_many_threads_may_shut_down_at_once(module: Any) -> None:
    with module.TCPServer(ADDRESS, answering(module)) as server, in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"
        threads = [threading.Thread(target=server.shutdown) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOUND)
        assert not any(thread.is_alive() for thread in threads)


def test_a_shutdown_too_many_ends_the_next_serve_forever(module: Any) -> None:
    with module.TCPServer(ADDRESS, answering(module)) as server:
        with in_thread(server.serve_forever):
            assert ask(server.server_address) == b"answer"
            server.shutdown()
        server.shutdown()
        server.serve_forever()
        with serving(server):
            assert ask(server.server_address) == b"answer"


def test_shutdown_before_serve_forever_ends_it_at_once(loop: str) -> None:
    with compat.TCPServer(ADDRESS, answering(compat)) as server:
        server.shutdown()
        server.serve_forever()
        with serving(server):
            assert ask(server.server_address) == b"answer"


def test_shutdown_waits_for_a_plain_handler(module: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()
    order = []

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            begun.set()
            go_on.wait(BOUND)
            order.append("handled")

    with (
        module.TCPServer(ADDRESS, Handler) as server,
        in_thread(server.serve_forever),
        connect(server.server_address),
    ):
        begun.wait(BOUND)
        threading.Timer(0.1, go_on.set).start()
        server.shutdown()
        order.append("shut down")
    assert order == ["handled", "shut down"]


def test_shutdown_does_not_wait_for_a_handler_in_a_thread(module: Any) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            begun.set()
            go_on.wait(BOUND)
            self.request.sendall(b"answer")

    with (
        module.ThreadingTCPServer(ADDRESS, Handler) as server,
        in_thread(server.serve_forever),
        connect(server.server_address) as client,
    ):
        begun.wait(BOUND)
        server.shutdown()
        go_on.set()
        assert client.recv(10) == b"answer"


def test_a_handler_in_a_thread_may_shut_down(module: Any) -> None:
    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.server.shutdown()
            self.request.sendall(b"answer")

    with module.ThreadingTCPServer(ADDRESS, Handler) as server, in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"


def test_shutdown_in_a_plain_handler_is_an_error(loop: str) -> None:
    raised: list[Any] = []

    def shut_down() -> None:
        with pytest.raises(
            RuntimeError, match=r"threading\.Thread\(target=server\.shutdown\)"
        ) as e:
            server.shutdown()
        raised.append(e)

    with compat.TCPServer(ADDRESS, calling(shut_down)) as server, serving(server):
        assert ask(server.server_address) == b"answer"
        # And the server goes on.
        assert ask(server.server_address) == b"answer"
    assert len(raised) == 2


def test_shutdown_in_a_hook_is_an_error_that_ends_serve_forever(loop: str) -> None:
    class Server(compat.TCPServer):
        def service_actions(self) -> None:
            self.shutdown()

    with (
        Server(ADDRESS, answering(compat)) as server,
        pytest.raises(RuntimeError, match="this very thread"),
    ):
        server.serve_forever(0.01)


@pytest.mark.parametrize("mix_in", ["TCPServer", "ThreadingTCPServer"])
def test_the_flag_ends_serve_forever_when_a_handler_sets_it(module: Any, mix_in: str) -> None:
    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.server._BaseServer__shutdown_request = True
            self.request.sendall(b"answer")

    with getattr(module, mix_in)(ADDRESS, Handler) as server, in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"


def test_the_flag_ends_serve_forever_when_a_thread_sets_it(module: Any) -> None:
    with module.TCPServer(ADDRESS, answering(module)) as server:
        with in_thread(server.serve_forever):
            assert ask(server.server_address) == b"answer"
            server._BaseServer__shutdown_request = True
        assert server._BaseServer__shutdown_request is False
        assert server._BaseServer__is_shut_down.is_set()


def test_nothing_is_accepted_after_the_flag(module: Any) -> None:
    handled = []

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            handled.append(self.client_address)
            self.server._BaseServer__shutdown_request = True

    with (
        module.TCPServer(ADDRESS, Handler) as server,
        connect(server.server_address),
        connect(server.server_address),
    ):
        server.serve_forever()
        assert len(handled) == 1
        server.serve_forever()
        assert len(handled) == 2


COPY = """
def serve_forever(self, poll_interval=0.5):
    self._BaseServer__is_shut_down.clear()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            while not self._BaseServer__shutdown_request:
                if selector.select(poll_interval):
                    self._handle_request_noblock()
                self.service_actions()
    finally:
        self._BaseServer__shutdown_request = False
        self._BaseServer__is_shut_down.set()
"""


def test_shutdown_ends_an_overridden_serve_forever_that_is_a_copy(module: Any) -> None:
    namespace: dict[str, Any] = {"selectors": selectors}
    exec(COPY, namespace)

    class Server(module.TCPServer):  # type: ignore[misc]
        serve_forever = namespace["serve_forever"]

    with Server(ADDRESS, answering(module)) as server:
        for _ in range(2):
            with in_thread(lambda: server.serve_forever(0.01)):
                assert ask(server.server_address) == b"answer"
                server.shutdown()


def test_shutdown_in_the_thread_of_such_a_copy_is_an_error_and_no_deadlock() -> None:
    namespace: dict[str, Any] = {"selectors": selectors}
    exec(COPY, namespace)

    class Server(compat.TCPServer):
        serve_forever = namespace["serve_forever"]

        def service_actions(self) -> None:
            self.shutdown()

    with (
        Server(ADDRESS, answering(compat)) as server,
        pytest.raises(RuntimeError, match="this very thread"),
    ):
        server.serve_forever(0.01)


def test_the_program_s_own_loop_over_handle_request(module: Any) -> None:
    class Server(module.TCPServer):  # type: ignore[misc]
        quit = False

        def serve_forever(self, poll_interval: float = 0.5) -> None:
            while not self.quit:
                self.handle_request()

    class Quit(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            self.server.quit = self.request.recv(10) == b"quit"
            self.request.sendall(b"answer")

    with Server(ADDRESS, Quit) as server, in_thread(server.serve_forever):
        assert ask(server.server_address, b"stay") == b"answer"
        assert ask(server.server_address, b"quit") == b"answer"


def test_server_close_in_another_thread_ends_serve_forever(loop: str) -> None:
    server = compat.TCPServer(ADDRESS, answering(compat))
    with in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"
        server.server_close()


def test_server_close_in_a_handler_ends_serve_forever(loop: str) -> None:
    def close() -> None:
        server.server_close()

    server = compat.TCPServer(ADDRESS, calling(close))
    with in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"


def test_shutdown_after_the_socket_was_closed_under_the_server(loop: str) -> None:
    server = compat.TCPServer(ADDRESS, answering(compat))
    with in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"
        server.socket.close()
        server.shutdown()


def test_serve_forever_of_a_closed_server_is_an_error(module: Any) -> None:
    server = module.TCPServer(ADDRESS, answering(module))
    server.server_close()
    with pytest.raises(ValueError):
        server.serve_forever()


def test_shutdown_ends_every_thread_that_serves(loop: str) -> None:
    with compat.ThreadingTCPServer(ADDRESS, answering(compat)) as server:
        server.socket.setblocking(False)
        with in_thread(server.serve_forever), in_thread(server.serve_forever):
            for _ in range(20):
                assert ask(server.server_address) == b"answer"
            server.shutdown()


def test_a_socket_that_a_handler_closes_is_no_shortage(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Closing(compat.BaseRequestHandler):
        def handle(self) -> None:
            vars(self.server)["socket"].close()
            self.request.sendall(b"answer")

    with compat.TCPServer(ADDRESS, Closing) as server:
        address = server.server_address
        # Both wait in the backlog before the first is served.
        with connect(address) as first, connect(address), in_thread(server.serve_forever):
            assert first.recv(10) == b"answer"
            server.shutdown()
    assert not caplog.records

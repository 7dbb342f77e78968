"""The server's hooks around a coroutine handler: their order, their errors, what they see."""

import asyncio
import socket
import sys
import threading
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, ask, connect, receive_all, served, serving

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(autouse=True, params=LOOP_NAMES)
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", request.param)


def where() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "no loop"
    return "loop"


class Recording(compat.TCPServer):
    """Notes which hook is called when, and whether it sees a running loop."""

    def __init__(self, handler: Any) -> None:
        super().__init__(LOCALHOST, handler)
        self.calls: list[str] = []
        self.closed = threading.Event()

    def get_request(self) -> Any:
        self.calls.append(f"get_request, {where()}")
        return super().get_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        assert type(request) is socket.socket
        self.calls.append(f"verify_request, {where()}")
        return super().verify_request(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.calls.append(f"process_request, {where()}")
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.calls.append("finish_request")
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.calls.append(f"handle_error: {sys.exc_info()[1]}, {where()}")

    def shutdown_request(self, request: Any) -> None:
        self.calls.append(f"shutdown_request, {where()}")
        super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        self.calls.append(f"close_request, {where()}")
        super().close_request(request)
        self.closed.set()


BEFORE = [
    "get_request, no loop",
    "verify_request, no loop",
    "process_request, no loop",
    "finish_request",
]
AFTER = ["shutdown_request, no loop", "close_request, no loop"]


@pytest.mark.parametrize("way", ["handle_request", "serve_forever", "serve_async"])
def test_hooks_are_called_in_socketservers_order_and_see_no_loop(way: str) -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        server: Any

        async def setup(self) -> None:
            await super().setup()
            self.server.calls.append(f"setup, {where()}")

        async def handle(self) -> None:
            self.server.calls.append(f"handle, {where()}")

        async def finish(self) -> None:
            self.server.calls.append(f"finish, {where()}")
            await super().finish()

    with Recording(Handler) as server, served(server, way):
        assert ask(server.server_address) == b""
        assert server.closed.wait(BOUND)
        assert server.calls == [*BEFORE, "setup, loop", "handle, loop", "finish, loop", *AFTER]


@pytest.mark.parametrize("way", ["handle_request", "serve_forever", "serve_async"])
def test_a_handlers_exception_goes_to_handle_error_and_the_connection_is_closed(way: str) -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"half an answer")
            raise ValueError("wrong")

    with Recording(Handler) as server, served(server, way):
        assert ask(server.server_address) == b"half an answer"
        assert server.closed.wait(BOUND)
        assert server.calls == [*BEFORE, "handle_error: wrong, no loop", *AFTER]


def test_handle_error_prints_what_socketservers_prints(capfd: pytest.CaptureFixture[str]) -> None:
    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            raise ValueError("wrong")

    with serving(compat.TCPServer(LOCALHOST, Handler)) as server:
        with connect(server.server_address) as client:
            address = client.getsockname()
            assert receive_all(client) == b""
        assert ask(server.server_address) == b""
    printed = capfd.readouterr().err
    assert f"Exception occurred during processing of request from {address}\nTraceb" in printed
    assert printed.count("ValueError: wrong\n") == 2


def test_a_request_that_is_not_verified_is_shut_down() -> None:
    class Server(Recording):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return not super().verify_request(request, client_address)

    with serving(Server(Naming)) as server:
        assert ask(server.server_address) == b""
        assert server.closed.wait(BOUND)
        assert server.calls == [*BEFORE[:2], *AFTER]


class Naming(aiosocketserver.StreamRequestHandler):
    """With one more argument."""

    def __init__(self, request: Any, client_address: Any, server: Any, name: str) -> None:
        super().__init__(request, client_address, server)
        self.name = name

    async def handle(self) -> None:
        await self.wfile.write(self.name.encode())


class WithoutReturn(compat.TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> None:
        handler: Any = self.RequestHandlerClass
        handler(request, client_address, self, "without")


class WithReturn(compat.TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> Any:
        handler: Any = self.RequestHandlerClass
        return handler(request, client_address, self, name="with")


class AsCoroutine(compat.ThreadingTCPServer):
    async def finish_request(self, request: Any, client_address: Any) -> None:  # type: ignore[override]
        handler: Any = self.RequestHandlerClass
        await handler(request, client_address, self, name="coroutine")


@pytest.mark.parametrize(
    ("cls", "answer"),
    [(WithoutReturn, b"without"), (WithReturn, b"with"), (AsCoroutine, b"coroutine")],
)
@pytest.mark.parametrize("way", ["handle_request", "serve_forever"])
def test_finish_request_gives_the_handler_more_arguments(cls: Any, answer: bytes, way: str) -> None:
    with cls(LOCALHOST, Naming) as server, served(server, way):
        assert ask(server.server_address) == answer


def test_a_handler_may_have_another_one_serve() -> None:
    class Other(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"once")

    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await Other(self.request, self.client_address, self.server)

    with serving(compat.TCPServer(LOCALHOST, Handler)) as server:
        assert ask(server.server_address) == b"once"


def test_a_program_may_run_a_loop_of_its_own_in_its_hooks() -> None:
    async def answer() -> bool:
        await asyncio.sleep(0)
        return True

    class Server(Recording):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            return asyncio.run(answer())

        def shutdown_request(self, request: Any) -> None:
            asyncio.run(answer())
            super().shutdown_request(request)

        def handle_error(self, request: Any, client_address: Any) -> None:
            asyncio.run(answer())

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"answer")
            raise ValueError

    with serving(Server(Handler)) as server:
        assert ask(server.server_address) == b"answer"

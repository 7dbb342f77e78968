"""serve_forever(): where it may run, service_actions() and what ends it, and what it leaves."""

import asyncio
import contextvars
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import (
    IMPLEMENTATIONS,
    LOOP_NAMES,
    ask,
    connect,
    implementation,
    in_thread,
)

ADDRESS = ("127.0.0.1", 0)


@pytest.fixture(params=IMPLEMENTATIONS)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return implementation(request.param, monkeypatch)


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


def outer_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def once(module: Any, function: Callable[[], object] = lambda: None) -> Any:
    """A handler that answers, and ends serve_forever()."""

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            function()
            self.request.sendall(b"answer")
            self.server._BaseServer__shutdown_request = True

    return Handler


# Where


def test_in_the_main_thread(module: Any) -> None:
    answers: list[bytes] = []
    with (
        module.TCPServer(ADDRESS, once(module)) as server,
        in_thread(lambda: answers.append(ask(server.server_address))),
    ):
        server.serve_forever()
    assert answers == [b"answer"]


@pytest.mark.parametrize("outer", LOOP_NAMES)
@pytest.mark.parametrize("method", ["serve_forever", "handle_request"])
def test_in_a_task_of_a_running_loop(module: Any, outer: str, method: str) -> None:
    answers: list[bytes] = []
    loop = outer_loop(outer)

    async def main() -> None:
        task = asyncio.current_task()
        getattr(server, method)()
        # The loop and the task go on as if nothing had been.
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        await asyncio.sleep(0)

    with (
        module.TCPServer(ADDRESS, once(module)) as server,
        in_thread(lambda: answers.append(ask(server.server_address))),
    ):
        loop.run_until_complete(main())
    loop.close()
    assert answers == [b"answer"]


@pytest.mark.parametrize("outer", LOOP_NAMES)
@pytest.mark.parametrize("method", ["serve_forever", "handle_request"])
def test_in_a_callback_of_a_running_loop(module: Any, outer: str, method: str) -> None:
    answers: list[bytes] = []
    loop = outer_loop(outer)

    def callback() -> None:
        getattr(server, method)()
        assert asyncio.get_running_loop() is loop
        loop.stop()

    with (
        module.TCPServer(ADDRESS, once(module)) as server,
        in_thread(lambda: answers.append(ask(server.server_address))),
    ):
        loop.call_soon(callback)
        loop.run_forever()
    loop.close()
    assert answers == [b"answer"]


@pytest.mark.parametrize("outer", LOOP_NAMES)
def test_several_servers_on_one_loop(outer: str) -> None:
    loop = outer_loop(outer)

    async def main() -> list[bytes]:
        tasks = [asyncio.create_task(server.serve_async()) for server in servers]
        answers = [await asyncio.to_thread(ask, server.server_address) for server in servers]
        for server in servers:
            await asyncio.to_thread(server.shutdown)
        await asyncio.gather(*tasks)
        return answers

    class Handler(compat.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(type(self.server).__name__.encode())

    with (
        compat.TCPServer(ADDRESS, Handler) as plain,
        compat.ThreadingTCPServer(ADDRESS, Handler) as threads,
        compat.ForkingTCPServer(ADDRESS, Handler) as children,
    ):
        servers: list[Any] = [plain, threads, children]
        answers = loop.run_until_complete(main())
    loop.close()
    assert answers == [b"TCPServer", b"ThreadingTCPServer", b"ForkingTCPServer"]


@pytest.mark.parametrize("outer", LOOP_NAMES)
def test_a_cancelled_serve_async_ends_and_may_be_called_again(outer: str) -> None:
    loop = outer_loop(outer)

    async def main() -> None:
        for _ in range(2):
            task = asyncio.create_task(server.serve_async())
            assert await asyncio.to_thread(ask, server.server_address) == b"answer"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server._BaseServer__is_shut_down.is_set()

    class Handler(compat.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"answer")

    with compat.TCPServer(ADDRESS, Handler) as server:
        loop.run_until_complete(main())
    loop.close()


def test_serve_async_raises_what_a_hook_does() -> None:
    class Server(compat.TCPServer):
        def service_actions(self) -> None:
            raise ValueError("of the hook")

    with Server(ADDRESS, once(compat)) as server, pytest.raises(ValueError, match="of the hook"):
        asyncio.run(server.serve_async(poll_interval=0))


# service_actions


class Enough(Exception):
    pass


@pytest.mark.parametrize("poll_interval", [0, 0.001, -1])
def test_service_actions_is_called_without_requests(module: Any, poll_interval: float) -> None:
    calls = []

    class Server(module.TCPServer):  # type: ignore[misc]
        def service_actions(self) -> None:
            calls.append(threading.get_ident())
            if len(calls) == 5:
                raise Enough

    with Server(ADDRESS, once(module)) as server, pytest.raises(Enough):
        server.serve_forever(poll_interval)
    assert calls == [threading.get_ident()] * 5


def test_service_actions_is_called_after_a_request_when_no_poll_is_wanted(module: Any) -> None:
    calls = []

    class Server(module.TCPServer):  # type: ignore[misc]
        def service_actions(self) -> None:
            calls.append("service_actions")
            raise Enough

    handler = once(module, lambda: calls.append("handle"))
    with Server(ADDRESS, handler) as server, connect(server.server_address), pytest.raises(Enough):
        server.serve_forever(None)
    assert calls == ["handle", "service_actions"]


def test_service_actions_given_to_the_instance_is_called(module: Any) -> None:
    def enough() -> None:
        raise Enough

    with module.TCPServer(ADDRESS, once(module)) as server:
        server.service_actions = enough
        with pytest.raises(Enough):
            server.serve_forever(0)


# What ends it


@pytest.mark.parametrize("hook", ["get_request", "verify_request", "handle_error"])
@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_hook_raises_ends_it_and_nothing_more_is_accepted(
    module: Any, hook: str, error: type[BaseException]
) -> None:
    accepted = []

    class Server(module.TCPServer):  # type: ignore[misc]
        def get_request(self) -> Any:
            accepted.append(self)
            return super().get_request()

    def failing(self: Any, *args: Any) -> Any:
        if hook == "get_request":
            accepted.append(self)
        elif args:
            args[0].close()
        raise error

    def fail() -> None:
        raise OSError

    setattr(Server, hook, failing)
    with (
        Server(ADDRESS, once(module, fail)) as server,
        connect(server.server_address),
        connect(server.server_address),
        pytest.raises(error),
    ):
        server.serve_forever()
    assert len(accepted) == 1


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_plain_handler_s_exit_ends_it_and_its_connection(
    module: Any, error: type[BaseException]
) -> None:
    def leave() -> None:
        raise error

    with (
        module.TCPServer(ADDRESS, once(module, leave)) as server,
        connect(server.server_address) as client,
    ):
        with pytest.raises(error):
            server.serve_forever()
        assert client.recv(1) == b""


def test_a_stop_that_is_too_late_changes_nothing(loop: str) -> None:
    servings: list[Any] = []

    class Server(compat.TCPServer):
        def service_actions(self) -> None:
            servings.extend(self._aiosocketserver.servings)

    with Server(ADDRESS, once(compat)) as server, connect(server.server_address):
        server.serve_forever(3600)
    # As when a thread has looked them up just before the loop was closed.
    servings[0].stop_threadsafe()
    servings[0]._paused = True
    servings[0].room_made()


# How its hooks run


def test_hooks_and_plain_handlers_share_the_caller_s_thread_and_a_context(module: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen: list[tuple[int, str]] = []

    def note(name: str) -> None:
        seen.append((threading.get_ident(), variable.get()))
        variable.set(name)

    class Server(module.TCPServer):  # type: ignore[misc]
        def get_request(self) -> Any:
            note("get_request")
            return super().get_request()

        def verify_request(self, request: Any, client_address: Any) -> bool:
            note("verify_request")
            return True

        def service_actions(self) -> None:
            note("service_actions")

    def serve() -> None:
        variable.set("caller")
        with connect(server.server_address):
            server.serve_forever(3600)

    with Server(ADDRESS, once(module, lambda: note("handle"))) as server:
        contextvars.Context().run(serve)
    assert seen == [
        (threading.get_ident(), name)
        for name in ("caller", "get_request", "verify_request", "handle")
    ]


@pytest.mark.parametrize("where", ["get_request", "handle", "service_actions"])
def test_a_hook_may_run_a_loop_of_its_own(module: Any, where: str) -> None:
    async def inner() -> str:
        await asyncio.sleep(0)
        return "inner"

    ran = []

    def run() -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        ran.append(asyncio.run(inner()))

    class Server(module.TCPServer):  # type: ignore[misc]
        def get_request(self) -> Any:
            if where == "get_request":
                run()
            return super().get_request()

        def service_actions(self) -> None:
            if where == "service_actions":
                run()
                raise Enough

    handler = once(module, run if where == "handle" else lambda: None)
    with Server(ADDRESS, handler) as server, connect(server.server_address):
        try:
            server.serve_forever()
        except Enough:
            pass
    assert ran == ["inner"]


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", ["TCPServer", "UDPServer"])
def test_the_listening_socket_s_blocking_mode_is_kept(
    module: Any, kind: str, blocking: bool
) -> None:
    seen = []

    class Server(getattr(module, kind)):  # type: ignore[misc]
        def service_actions(self) -> None:
            seen.append(os.get_blocking(self.fileno()))
            self._BaseServer__shutdown_request = True

    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            seen.append(os.get_blocking(self.server.fileno()))

    with Server(ADDRESS, Handler) as server:
        server.socket.setblocking(blocking)
        with socket.socket(socket.AF_INET, server.socket_type) as client:
            client.connect(server.server_address)
            client.send(b"x")
            server.serve_forever()
        seen.append(os.get_blocking(server.fileno()))
    assert seen == [blocking] * 3


def test_a_batch_of_waiting_requests_is_served_in_order(module: Any) -> None:
    class Handler(module.BaseRequestHandler):  # type: ignore[misc]
        def handle(self) -> None:
            received.append(self.request[0])
            if len(received) == 100:
                self.server._BaseServer__shutdown_request = True

    received: list[bytes] = []
    sent = [b"%d" % number for number in range(100)]
    with module.UDPServer(ADDRESS, Handler) as server:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for datagram in sent:
                client.sendto(datagram, server.server_address)
        server.serve_forever()
    assert received == sent

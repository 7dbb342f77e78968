"""Errors that are no Exception: the handler's failure, but for SystemExit and KeyboardInterrupt."""

import asyncio
import logging
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    DatagramRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
    compat,
)
from tests.greenlet_support import greenlet_server
from tests.support import ask, client_of

LOCALHOST = ("127.0.0.1", 0)


class Panic(BaseException):
    """As pyo3's PanicException."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "panic": Panic,
    "generator-exit": GeneratorExit,
    "cancelled": asyncio.CancelledError,
    "cancelled-group": lambda: BaseExceptionGroup("", [asyncio.CancelledError()]),
    "mixed-group": lambda: BaseExceptionGroup("", [Panic(), ValueError()]),
}


@pytest.fixture(params=ERRORS)
def error(request: pytest.FixtureRequest) -> BaseException:
    return ERRORS[request.param]()


class Failing(BaseRequestHandler):
    """Fails at once for a client that asks for it, and answers the others."""

    error: BaseException

    async def handle(self) -> None:
        if await self.request.recv(1) == b"!":
            raise self.error
        await self.request.sendall(b"fine")


def failing(error: BaseException) -> type[Failing]:
    return type("Handler", (Failing,), {"error": error})


async def serving(server: TCPServer | UDPServer, check: Callable[[], Awaitable[object]]) -> None:
    """Serve with serve_forever(), which has to go on until the shutdown."""
    async with server:
        task = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        await check()
        assert not task.done()
        await server.shutdown()
        await task


async def test_the_handlers_failure_costs_nobody_else_anything(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    server = TCPServer(LOCALHOST, failing(error))

    async def check() -> None:
        async with client_of(server.server_address) as other:
            for _ in range(2):
                assert await ask(server.server_address, b"!") == b""
            await other.send(b"?")
            assert await other.receive_all() == b"fine"

    await serving(server, check)
    assert server.statistics.handlers_failed == 2
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 2
    assert all(r.exc_info is not None and r.exc_info[1] is error for r in caplog.records)


@pytest.mark.parametrize(
    "hook", ["verify_request", "process_request", "finish_request", "close_request"]
)
async def test_a_hook_that_fails_costs_nobody_else_anything(
    hook: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    fails = True

    def fail(self: Any, *arguments: Any) -> Any:
        if fails:
            if hook == "close_request":
                arguments[0].close()
            raise error
        return getattr(TCPServer, hook)(self, *arguments)

    server = type("Server", (TCPServer,), {hook: fail})(LOCALHOST, failing(error))

    async def check() -> None:
        nonlocal fails
        assert await ask(server.server_address, b"?") in (b"", b"fine")
        fails = False
        assert await ask(server.server_address, b"?") == b"fine"

    await serving(server, check)
    assert server.statistics.handlers_failed == 1
    assert any(r.exc_info is not None and r.exc_info[1] is error for r in caplog.records)


@pytest.mark.parametrize("is_coroutine", [False, True])
async def test_a_handle_error_that_fails_is_told(
    is_coroutine: bool, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> Any:
            if is_coroutine:
                return self.fail()
            raise error

        async def fail(self) -> None:
            await asyncio.sleep(0)
            raise error

    server = Server(LOCALHOST, failing(LookupError()))

    async def check() -> None:
        assert await ask(server.server_address, b"!") == b""
        assert await ask(server.server_address, b"?") == b"fine"

    await serving(server, check)
    assert [r.getMessage() for r in caplog.records] == ["handle_error() failed"]


@pytest.mark.parametrize("hook", ["handle_refusal", "handle_timed_out"])
async def test_a_hook_of_limits_that_fails_is_told(
    hook: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    def fail(self: Any, *arguments: Any) -> Any:
        raise error

    class Handler(failing(error)):  # type: ignore[misc]
        async def setup(self) -> None:
            begun.set()

    server: TCPServer = type("Server", (TCPServer,), {hook: fail})(
        LOCALHOST, Handler, max_connections_per_host=1, idle_timeout=0.2
    )

    async def check() -> None:
        async with client_of(server.server_address) as first:
            if hook == "handle_refusal":
                await begun.wait()
                assert await ask(server.server_address) == b""
                await first.send(b"?")
                assert await first.receive_all() == b"fine"
            else:
                assert await first.receive_all() == b""

    await serving(server, check)
    assert any(f"{hook}() failed" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("kind", [TCPServer, UDPServer])
async def test_a_get_request_that_fails_is_told_and_called_again(
    kind: type[TCPServer | UDPServer], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Answering(DatagramRequestHandler):
        async def handle(self) -> None:
            self.wfile.write(b"fine")

    failed: list[BaseException] = []

    def get_request(self: Any) -> Any:
        if not failed:
            failed.append(error)
            raise error
        return kind.get_request(self)

    handler = Answering if kind is UDPServer else failing(error)
    server = type("Server", (kind,), {"get_request": get_request})(LOCALHOST, handler)

    async def check() -> None:
        if kind is TCPServer:
            assert await ask(server.server_address, b"?") == b"fine"
            return
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(server.server_address)
            client.send(b"x")
            assert await loop.sock_recv(client, 10) == b"fine"

    await serving(server, check)
    assert [r.getMessage() for r in caplog.records] == ["get_request() failed"]


@pytest.mark.parametrize("exit_", [SystemExit(3), KeyboardInterrupt()], ids=repr)
async def test_an_exit_in_get_request_for_datagrams_is_raised_by_serve_forever(
    exit_: BaseException,
) -> None:
    class Server(UDPServer):
        def get_request(self) -> Any:
            super().get_request()
            raise exit_

    class Handler(DatagramRequestHandler):
        async def handle(self) -> None:
            raise AssertionError

    async with Server(LOCALHOST, Handler) as server:
        await server.start_serving()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.sendto(b"x", server.server_address)
        with pytest.raises(type(exit_)):
            await server.serve_forever()


async def test_a_failure_leaves_the_worker_of_datagrams_in_place(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(BaseRequestHandler):
        async def handle(self) -> None:
            data, sock = self.request
            if data == b"!":
                raise error
            await sock.sendto(b"fine", self.client_address)

    server = UDPServer(LOCALHOST, Handler, max_concurrency=1)

    async def check() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(server.server_address)
            for datagram in (b"!", b"!", b"?"):
                client.send(datagram)
            assert await loop.sock_recv(client, 10) == b"fine"

    await serving(server, check)
    assert server.statistics.handlers_failed == 2
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "error",
    [
        BaseExceptionGroup("", [ValueError(), SystemExit(3)]),
        BaseExceptionGroup("", [BaseExceptionGroup("", [SystemExit(3)])]),
        BaseExceptionGroup("", [KeyboardInterrupt(), SystemExit(4)]),
    ],
    ids=repr,
)
async def test_an_exit_in_a_group_counts_as_one(
    error: BaseExceptionGroup[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async with TCPServer(LOCALHOST, failing(error)) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"!") == b""
        with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
            await server.serve_forever()
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 3
    # Its companions are told of.
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error


# Handlers in threads, children and greenlets


def legacy(fail: Callable[[], object]) -> type[socketserver.BaseRequestHandler]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            if self.request.recv(1) == b"!":
                fail()
            self.request.sendall(b"fine")

    return Handler


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("make", [ThreadingTCPServer, "greenlets"])
async def test_a_legacy_handlers_failure_is_told_and_counted(
    make: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    handler = legacy(raising(error))
    server = greenlet_server(handler) if make == "greenlets" else make(LOCALHOST, handler)

    async def check() -> None:
        assert await ask(server.server_address, b"!") == b""
        assert await ask(server.server_address, b"?") == b"fine"

    await serving(server, check)
    assert server.statistics.handlers_failed == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_childs_failure_is_told_by_handle_error(error: BaseException) -> None:
    told, telling = os.pipe()

    class Server(aiosocketserver.ForkingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            os.write(telling, b"told" if sys.exception() is error else b"else")

    server = Server(LOCALHOST, legacy(raising(error)))

    async def check() -> None:
        assert await ask(server.server_address, b"!") == b""
        assert await ask(server.server_address, b"?") == b"fine"

    await serving(server, check)
    assert server.statistics.handlers_failed == 1
    os.close(telling)
    with open(told, "rb") as pipe:
        assert pipe.read() == b"told"


async def test_an_exit_of_a_coroutine_on_the_loop_is_raised_where_it_was_called() -> None:
    raised: SimpleQueue[BaseException] = SimpleQueue()

    async def leave() -> None:
        await asyncio.sleep(0)
        raise SystemExit(3)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                self.server.run_on_loop(leave)  # type: ignore[attr-defined]
            except SystemExit as exit_:
                raised.put(exit_)

    for server in (ThreadingTCPServer(LOCALHOST, Handler), greenlet_server(Handler)):

        async def check(server: TCPServer = server) -> None:
            assert await ask(server.server_address) == b""

        await serving(server, check)
        assert raised.get(timeout=10).args == (3,)


async def test_a_functions_generator_exit_closes_no_coroutine() -> None:
    class Handler(BaseRequestHandler):
        server: TCPServer

        async def handle(self) -> None:
            try:
                await self.server.run_in_thread(raising(GeneratorExit()))
            except RuntimeError as error:
                await self.request.sendall(type(error.__cause__).__name__.encode())

    server = TCPServer(LOCALHOST, Handler)

    async def check() -> None:
        assert await ask(server.server_address) == b"GeneratorExit"

    await serving(server, check)


def test_a_forgotten_handler_is_closed_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """Python closes its coroutine, which nobody runs any more."""
    steps: list[str] = []
    requests: list[Any] = []
    begun = asyncio.Event()

    class Handler(BaseRequestHandler):
        async def handle(self) -> None:
            steps.append("begun")
            requests.append(self.request)
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("closed")

    server = TCPServer(LOCALHOST, Handler)
    loop = asyncio.new_event_loop()
    coroutines: list[Any] = []

    def keep(loop: Any, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        coroutines.append(coroutine)
        task = asyncio.Task(coroutine, loop=loop, **more)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        return task

    async def serve_one() -> None:
        await server.start_serving()
        loop.set_task_factory(keep)
        async with client_of(server.server_address):
            await begun.wait()
            coroutines[0].close()
            requests[0].close()
            await server._stages.wait_closed()

    loop.run_until_complete(serve_one())
    assert steps == ["begun", "closed"]
    assert server.statistics.handlers_failed == 0
    assert [r for r in caplog.records if r.name == "aiosocketserver"] == []
    server.server_close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    coroutines.clear()


# compat


def test_compats_coroutine_handlers_are_as_the_native_ones(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    server = compat.TCPServer(LOCALHOST, failing(error))
    address: Any = server.server_address
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for question, answer in ((b"!", b""), (b"?", b"fine")):
            with socket.create_connection(address, 10) as client:
                client.sendall(question)
                assert client.recv(10) == answer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert type(error).__name__ in capsys.readouterr().err

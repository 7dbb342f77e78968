"""The table of handler kinds: what runs where, and what a class that cannot work gets."""

import asyncio
import functools
import http.server
import logging
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import TCPServer, ThreadingTCPServer
from aiosocketserver.requests.handler_kinds import HandlerKind, handler_kind
from tests.support import ask

LOCALHOST = ("127.0.0.1", 0)


# Handlers that work. Each answers with "loop" or "thread".


def where() -> bytes:
    return b"loop" if threading.current_thread() is threading.main_thread() else b"thread"


class Coroutine1(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(where())


class WithSetup(aiosocketserver.StreamRequestHandler):
    async def setup(self) -> None:
        await super().setup()

    async def handle(self) -> None:
        await self.wfile.write(where())

    async def finish(self) -> None:
        await super().finish()


class Derived(Coroutine1):
    pass


def traced(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Decorated(aiosocketserver.BaseRequestHandler):
    @traced
    async def handle(self) -> None:
        await self.request.sendall(where())


class WithMore(aiosocketserver.BaseRequestHandler):
    def __init__(self, *args: Any, more: bytes) -> None:
        super().__init__(*args)
        self.more = more

    async def handle(self) -> None:
        await self.request.sendall(self.more)


class Legacy(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(where())


class LegacyStream(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(where())


class LegacyWithMore(socketserver.BaseRequestHandler):
    def __init__(self, more: bytes, *args: Any) -> None:
        self.more = more
        super().__init__(*args)

    def handle(self) -> None:
        self.request.sendall(self.more)


class OnNoBase:
    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.request = request
        self.handle()

    def handle(self) -> None:
        self.request.sendall(where())


class WithSlots:
    __slots__ = ("request",)

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.request = request
        self.handle()

    def handle(self) -> None:
        self.request.sendall(where())


def runs_its_own_loop(function: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> None:
        asyncio.run(function(*args))

    return wrapper


class WithItsOwnLoop(socketserver.BaseRequestHandler):
    @runs_its_own_loop
    async def handle(self) -> None:
        self.request.sendall(where())


class SetsItsHandle(socketserver.BaseRequestHandler):
    def setup(self) -> None:
        self.handle = self.other  # type: ignore[method-assign]

    def other(self) -> None:
        self.request.sendall(where())

    def handle(self) -> None:
        raise AssertionError("replaced by setup()")


def factory(request: Any, client_address: Any, server: Any) -> Any:
    return Legacy(request, client_address, server)


class Registry(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class WithMetaclass(Legacy, metaclass=Registry):
    pass


class Choosing(socketserver.BaseRequestHandler):
    """`__new__` returns something else, which Python then does not initialise."""

    def __new__(cls, request: Any, client_address: Any, server: Any) -> Any:
        return factory(request, client_address, server)

    def handle(self) -> None:
        raise AssertionError("never made")


COROUTINES: list[tuple[Any, bytes]] = [
    (Coroutine1, b"loop"),
    (WithSetup, b"loop"),
    (Derived, b"loop"),
    (Decorated, b"loop"),
    (functools.partial(Coroutine1), b"loop"),
    (functools.partial(functools.partial(WithMore), more=b"more"), b"more"),
]
LEGACY: list[tuple[Any, bytes]] = [
    (Legacy, b"thread"),
    (LegacyStream, b"thread"),
    (OnNoBase, b"thread"),
    (WithSlots, b"thread"),
    (WithItsOwnLoop, b"thread"),
    (SetsItsHandle, b"thread"),
    (WithMetaclass, b"thread"),
    (Choosing, b"thread"),
    (functools.partial(Legacy), b"thread"),
    (functools.partial(functools.partial(LegacyWithMore), b"more"), b"more"),
    (factory, b"thread"),
    (lambda *args: Legacy(*args), b"thread"),
    (functools.partial(factory), b"thread"),
]


@pytest.mark.parametrize("server_class", [TCPServer, ThreadingTCPServer])
@pytest.mark.parametrize(("handler", "answer"), COROUTINES)
async def test_a_coroutine_handler_runs_on_the_loop_of_every_server(
    server_class: type[TCPServer], handler: Any, answer: bytes
) -> None:
    async with server_class(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == answer


@pytest.mark.parametrize(("handler", "answer"), LEGACY)
async def test_a_legacy_handler_runs_in_a_thread(handler: Any, answer: bytes) -> None:
    async with ThreadingTCPServer(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == answer
        assert server.statistics.handlers_failed == 0


@pytest.mark.parametrize("handler", [handler for handler, _ in LEGACY])
def test_a_legacy_handler_without_a_mix_in_is_an_error_that_names_the_mix_ins(handler: Any) -> None:
    with pytest.raises(
        TypeError, match=r"ThreadingMixIn .*, ForkingMixIn or GreenletMixIn"
    ) as raised:
        TCPServer(LOCALHOST, handler)
    assert "would block the loop" in str(raised.value)


async def test_the_kind_is_told_again_when_the_handler_is_replaced() -> None:
    async with TCPServer(LOCALHOST, Coroutine1) as server:
        server.RequestHandlerClass = Legacy
        with pytest.raises(TypeError, match="ThreadingMixIn"):
            await server.start_serving()
        server.RequestHandlerClass = WithSetup
        await server.start_serving()
        assert await ask(server.server_address) == b"loop"


# Handlers that cannot work


class CoroutineOnLegacyBase(socketserver.BaseRequestHandler):
    async def handle(self) -> None:  # type: ignore[override]
        pass


class CoroutineOnLegacyStream(socketserver.StreamRequestHandler):
    async def handle(self) -> None:  # type: ignore[override]
        pass


class CoroutineSetupOnLegacyBase(Legacy):
    async def setup(self) -> None:  # type: ignore[override]
        pass


class GeneratorOnLegacyBase(socketserver.BaseRequestHandler):
    async def handle(self) -> AsyncIterator[int]:  # type: ignore[override]
        yield 1


class PlainOnOurBase(aiosocketserver.BaseRequestHandler):
    def handle(self) -> None:  # type: ignore[override]
        pass


class PlainSetup(Coroutine1):
    def setup(self) -> None:  # type: ignore[override]
        pass


class PlainFinish(Coroutine1):
    def finish(self) -> None:  # type: ignore[override]
        pass


class Generator(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> AsyncIterator[int]:  # type: ignore[override]
        yield 1


class WithoutHandle(aiosocketserver.StreamRequestHandler):
    pass


class LegacyWithoutHandle(socketserver.StreamRequestHandler):
    pass


class NoHandler:
    pass


async def coroutine_function(request: Any, client_address: Any, server: Any) -> None:
    pass


UNUSABLE: list[tuple[Any, str]] = [
    (CoroutineOnLegacyBase, "never await it: derive from aiosocketserver.BaseRequestHandler"),
    (CoroutineOnLegacyStream, "never await it: derive from aiosocketserver.StreamRequestHandler"),
    (CoroutineSetupOnLegacyBase, "CoroutineSetupOnLegacyBase.setup() is a coroutine"),
    (GeneratorOnLegacyBase, "handle() is an asynchronous generator"),
    (PlainOnOurBase, "make it `async def handle(self)` and put `await` before each I/O call"),
    (PlainSetup, "make it `async def setup(self)`"),
    (PlainFinish, "make it `async def finish(self)`"),
    (Generator, "because it has a `yield`"),
    (WithoutHandle, "WithoutHandle has no handle(): define `async def handle(self)`"),
    (LegacyWithoutHandle, "LegacyWithoutHandle has no handle()"),
    (NoHandler, "NoHandler has no handle()"),
    (coroutine_function, "put it into a class derived from aiosocketserver.BaseRequestHandler"),
    (functools.partial(PlainOnOurBase), "make it `async def handle(self)`"),
    (functools.partial(coroutine_function), "is the coroutine function coroutine_function"),
    (None, "must be a handler class, not None"),
    ("Handler", "must be a handler class, not 'Handler'"),
]


@pytest.mark.parametrize(("handler", "message"), UNUSABLE)
@pytest.mark.parametrize("server_class", [TCPServer, ThreadingTCPServer])
def test_a_handler_that_cannot_work_is_an_error_that_says_what_to_change(
    server_class: type[TCPServer], handler: Any, message: str
) -> None:
    with pytest.raises(TypeError) as raised:
        server_class(LOCALHOST, handler)
    assert message in str(raised.value)


def test_the_standard_librarys_handlers_are_legacy() -> None:
    # Python 3.15 has no CGIHTTPRequestHandler any more.
    for name in ("SimpleHTTPRequestHandler", "CGIHTTPRequestHandler"):
        handler = getattr(http.server, name, http.server.SimpleHTTPRequestHandler)
        assert handler_kind(handler, mix_in=True) is HandlerKind.LEGACY
    bound = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/")
    assert handler_kind(bound, mix_in=True) is HandlerKind.LEGACY


# Plain functions that return what nobody awaits


async def work() -> None:
    raise AssertionError("nobody runs this")


class ReturnsCoroutine(socketserver.BaseRequestHandler):
    def handle(self) -> Any:
        return work()


class ReturnsFuture(socketserver.BaseRequestHandler):
    def handle(self) -> Any:
        class Awaitable:
            def __await__(self) -> Any:
                raise AssertionError("nobody awaits this")

        return Awaitable()


def coroutine_factory(request: Any, client_address: Any, server: Any) -> Any:
    return work()


def our_factory(request: Any, client_address: Any, server: Any) -> Any:
    return Coroutine1(request, client_address, server)


@pytest.mark.parametrize(
    "handler",
    [
        ReturnsCoroutine,
        ReturnsFuture,
        coroutine_factory,
        our_factory,
        functools.partial(ReturnsCoroutine),
    ],
)
async def test_an_awaitable_that_a_plain_handler_returns_is_reported(
    handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with ThreadingTCPServer(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        await server.shutdown()
        assert server.statistics.handlers_failed == 1
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is TypeError
    assert "returned an awaitable" in str(record.exc_info[1])


async def test_finish_runs_when_handle_has_returned_an_awaitable() -> None:
    class Finishing(ReturnsCoroutine):
        def finish(self) -> None:
            self.request.sendall(b"finished")

    async with ThreadingTCPServer(LOCALHOST, Finishing) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"finished"


async def test_a_coroutine_handler_instance_can_be_awaited_alone() -> None:
    steps = []

    class Stepping(aiosocketserver.BaseRequestHandler):
        async def setup(self) -> None:
            steps.append("setup")

        async def handle(self) -> None:
            steps.append("handle")

        async def finish(self) -> None:
            steps.append("finish")

    async with TCPServer(LOCALHOST, Stepping) as server:
        handler = Stepping(None, None, server)
        assert steps == []
        await handler
    assert steps == ["setup", "handle", "finish"]

"""socketserver's constructor, attributes and hooks, in socketserver's order."""

import asyncio
import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import BaseRequestHandler, StreamRequestHandler, TCPServer, UnixStreamServer
from tests.support import ask

LOCALHOST = ("127.0.0.1", 0)

HOOKS = [
    "server_bind",
    "server_activate",
    "get_request",
    "verify_request",
    "process_request",
    "finish_request",
    "shutdown_request",
    "close_request",
    "handle_error",
    "handle_timeout",
    "server_close",
]


class Recorded:
    """Overrides every hook, for either module, to record that it is called, and with what."""

    def __init__(self, calls: list[Any], *args: Any, **kwargs: Any) -> None:
        self.calls = calls
        super().__init__(*args, **kwargs)


def _recorded(name: str) -> Callable[..., Any]:
    def hook(self: Any, *args: Any) -> Any:
        # The client's port is another one each time.
        self.calls.append((name, len(args)))
        if name == "handle_error":
            return None
        return getattr(super(Recorded, self), name)(*args)

    return hook


for _name in HOOKS:
    setattr(Recorded, _name, _recorded(_name))


class OursMixin:
    calls: list[Any]

    async def handle(self) -> None:
        calls = self.server.calls  # type: ignore[attr-defined]
        calls.append("handle")
        question = await self.request.recv(100)  # type: ignore[attr-defined]
        if question == b"raise":
            raise LookupError
        await self.request.sendall(question)  # type: ignore[attr-defined]

    async def setup(self) -> None:
        self.server.calls.append("setup")  # type: ignore[attr-defined]
        await super().setup()  # type: ignore[misc]

    async def finish(self) -> None:
        self.server.calls.append("finish")  # type: ignore[attr-defined]
        await super().finish()  # type: ignore[misc]


class TheirsMixin:
    def handle(self) -> None:
        calls = self.server.calls  # type: ignore[attr-defined]
        calls.append("handle")
        question = self.request.recv(100)  # type: ignore[attr-defined]
        if question == b"raise":
            raise LookupError
        self.request.sendall(question)  # type: ignore[attr-defined]

    def setup(self) -> None:
        self.server.calls.append("setup")  # type: ignore[attr-defined]
        super().setup()  # type: ignore[misc]

    def finish(self) -> None:
        self.server.calls.append("finish")  # type: ignore[attr-defined]
        super().finish()  # type: ignore[misc]


class Ours(OursMixin, BaseRequestHandler):
    pass


class OursStream(OursMixin, StreamRequestHandler):
    pass


class Theirs(TheirsMixin, socketserver.BaseRequestHandler):
    pass


class TheirsStream(TheirsMixin, socketserver.StreamRequestHandler):
    pass


class Refusing:
    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.calls.append("refused")  # type: ignore[attr-defined]
        return False


def _address(kind: str, folder: Path) -> Any:
    return LOCALHOST if kind == "TCPServer" else str(folder / "s")


def _exchange(address: Any, question: bytes) -> bytes:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(address)
        answer = b""
        # A connection that socketserver refuses may be reset before the question is there.
        with contextlib.suppress(OSError):
            client.sendall(question)
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(100):
                answer += data
        return answer


def theirs(
    kind: str, mixins: tuple[type, ...], handler: type, folder: Path, question: bytes
) -> Any:
    """The standard library's calls and answer for one request, then one time-out."""
    calls: list[Any] = []
    server_class = type("Server", (*mixins, Recorded, getattr(socketserver, kind)), {})
    server = server_class(calls, _address(kind, folder), handler)
    answers: list[bytes] = []
    client = threading.Thread(
        target=lambda: answers.append(_exchange(server.server_address, question))
    )
    client.start()
    server.handle_request()
    client.join()
    server.timeout = 0
    server.handle_request()
    server.server_close()
    (folder / "s").unlink(missing_ok=True)
    return calls, answers


async def ours(
    kind: str, mixins: tuple[type, ...], handler: type, folder: Path, question: bytes
) -> Any:
    calls: list[Any] = []
    server_class = type("Server", (*mixins, Recorded, getattr(aiosocketserver, kind)), {})
    server = server_class(calls, _address(kind, folder), handler)
    asking = asyncio.create_task(asyncio.to_thread(_exchange, server.server_address, question))
    await server.handle_request()
    answers = [await asking]
    server.timeout = 0
    await server.handle_request()
    server.server_close()
    return calls, answers


@pytest.mark.parametrize("question", [b"question", b"raise"])
@pytest.mark.parametrize("mixins", [(), (Refusing,)], ids=["", "refusing"])
@pytest.mark.parametrize("handlers", [(Ours, Theirs), (OursStream, TheirsStream)])
@pytest.mark.parametrize("kind", ["TCPServer", "UnixStreamServer"])
async def test_hooks_are_called_in_the_order_of_socketserver(
    tmp_path: Path,
    kind: str,
    handlers: tuple[type, type],
    mixins: tuple[type, ...],
    question: bytes,
) -> None:
    expected = await asyncio.to_thread(theirs, kind, mixins, handlers[1], tmp_path, question)
    assert await ours(kind, mixins, handlers[0], tmp_path, question) == expected
    if not mixins:
        assert ("handle_error", 2) in expected[0] or expected[1] == [question]


@pytest.mark.parametrize("kind", ["TCPServer", "UnixStreamServer"])
def test_attributes_are_those_of_socketserver(tmp_path: Path, kind: str) -> None:
    made = getattr(aiosocketserver, kind)(_address(kind, tmp_path), Ours)
    their_class = getattr(socketserver, kind)
    missing = [
        name for name in dir(their_class) if not name.startswith("_") and not hasattr(made, name)
    ]
    assert missing == []
    for name in ("address_family", "socket_type", "timeout", "allow_reuse_port"):
        assert getattr(made, name) == getattr(their_class, name, False)
    assert made.RequestHandlerClass is Ours
    assert made.fileno() == made.socket.fileno()
    assert made.socket.getsockname() == made.server_address
    made.server_close()


class Hello(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"hello")


async def test_bind_and_activate_can_be_left_to_the_caller() -> None:
    server = TCPServer(LOCALHOST, Hello, bind_and_activate=False)
    assert server.server_address == LOCALHOST
    server.allow_reuse_address = False
    server.server_bind()
    server.server_activate()
    async with server:
        await server.start_serving()
        assert await ask(server.server_address) == b"hello"


def test_a_constructor_that_fails_calls_server_close_as_socketserver_does() -> None:
    calls = []

    class Failing(TCPServer):
        def server_activate(self) -> None:
            raise LookupError

        def server_close(self) -> None:
            calls.append("server_close")
            super().server_close()

    with pytest.raises(LookupError):
        Failing(LOCALHOST, Hello)
    assert calls == ["server_close"]


# Plain and coroutine overrides


def _plain(calls: list[str], name: str, result: Any) -> Callable[..., Any]:
    def hook(self: Any, *args: Any) -> Any:
        calls.append(name)
        return result(self, *args)

    return hook


def _coroutine(calls: list[str], name: str, result: Any) -> Callable[..., Any]:
    async def hook(self: Any, *args: Any) -> Any:
        await asyncio.sleep(0)
        calls.append(name)
        returned = result(self, *args)
        return await returned if hasattr(returned, "__await__") else returned

    return hook


@pytest.mark.parametrize("kind", [_plain, _coroutine])
async def test_hooks_may_be_plain_or_coroutines(kind: Callable[..., Any]) -> None:
    calls: list[str] = []

    class Failing(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"answer")
            raise LookupError

    hooks = {
        "verify_request": lambda self, *args: True,
        "process_request": lambda self, *args: TCPServer.process_request(self, *args),
        "finish_request": lambda self, *args: TCPServer.finish_request(self, *args),
        "handle_error": lambda self, *args: None,
    }
    server_class = type(
        "S", (TCPServer,), {name: kind(calls, name, f) for name, f in hooks.items()}
    )
    async with server_class(LOCALHOST, Failing) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"answer"
    assert calls == list(hooks)


@pytest.mark.parametrize("kind", [_plain, _coroutine])
async def test_a_request_that_is_not_verified_is_not_served(kind: Callable[..., Any]) -> None:
    calls: list[str] = []
    refuse = kind(calls, "verify_request", lambda self, *args: False)
    async with type("S", (TCPServer,), {"verify_request": refuse})(LOCALHOST, Hello) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    assert calls == ["verify_request"]
    assert server.statistics.handlers_failed == 0


async def test_a_slow_verify_request_holds_up_nobody_else() -> None:
    first = asyncio.Event()
    let_first_in = asyncio.Event()

    class Slow(TCPServer):
        async def verify_request(self, request: Any, client_address: Any) -> bool:
            if not first.is_set():
                first.set()
                await let_first_in.wait()
            return True

    async with Slow(LOCALHOST, Hello) as server:
        await server.start_serving()
        waiting = asyncio.create_task(ask(server.server_address))
        await first.wait()
        assert await ask(server.server_address) == b"hello"
        assert not waiting.done()
        let_first_in.set()
        assert await waiting == b"hello"


async def test_finish_request_may_give_the_handler_more_arguments() -> None:
    class More(BaseRequestHandler):
        def __init__(self, *args: Any, more: bytes) -> None:
            super().__init__(*args)
            self.more = more

        async def handle(self) -> None:
            await self.request.sendall(self.more)

    class Server(TCPServer):
        async def finish_request(self, request: Any, client_address: Any) -> None:
            await self.RequestHandlerClass(request, client_address, self, more=b"more")

    async with Server(LOCALHOST, More) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"more"


async def test_get_request_may_return_what_is_no_plain_socket_only_to_be_told() -> None:
    class Odd(socket.socket):
        def recv(self, *args: Any) -> bytes:
            raise AssertionError("this may block")

    class Server(TCPServer):
        def get_request(self) -> Any:
            connection, client_address = super().get_request()
            return Odd(fileno=connection.detach()), client_address

    async with Server(LOCALHOST, Hello) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        await server.shutdown()
        assert server.statistics.handlers_failed == 1


async def test_a_base_server_needs_its_own_get_request() -> None:
    with pytest.raises(NotImplementedError, match=r"does not define get_request\(\)"):
        aiosocketserver.BaseServer(None, Hello).get_request()


async def test_a_unix_server_serves_at_its_path(tmp_path: Path) -> None:
    async with UnixStreamServer(tmp_path / "s", Hello) as server:
        await server.start_serving()
        assert await ask(str(tmp_path / "s")) == b"hello"

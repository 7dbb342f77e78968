"""Every connection that is accepted is served or closed, whenever its server ends or fails.

What asyncio's own servers had wrong in 2026: python/cpython #109564 (a server closed between
accepting and the connection's start), #155934 (a start that fails leaks the connection), #153761
(a cancelled accept drops one).
"""

import asyncio
import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aiosocketserver
from tests.support import Peer, client_of, until_later

LOCALHOST = ("127.0.0.1", 0)


class Coroutine(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        self.server.at("handle")  # type: ignore[attr-defined]
        await self.request.recv(1)
        await self.request.sendall(b"served")
        self.server.at("handled")  # type: ignore[attr-defined]


class Legacy(socketserver.BaseRequestHandler):
    server: Any

    def handle(self) -> None:
        self.server.at("handle")
        self.request.recv(1)
        self.request.sendall(b"served")
        self.server.at("handled")


class Failing(Coroutine):
    async def handle(self) -> None:
        await super().handle()
        raise ValueError("as it shall")


class LegacyFailing(Legacy):
    def handle(self) -> None:
        super().handle()
        raise ValueError("as it shall")


HOOKS = (
    "before get_request",
    "get_request",
    "verify_request",
    "process_request",
    "finish_request",
    "handle",
    "handled",
    "handle_error",
    "shutdown_request",
    "close_request",
)


class Ending:
    """A server that calls `end` the second time that one of its hooks is called."""

    loop: asyncio.AbstractEventLoop
    hook = ""
    end: Callable[[], object]
    calls = 0
    has_ended = False

    def at(self, hook: str) -> None:
        if hook != self.hook:
            return
        self.calls += 1
        if self.calls != 2:
            return
        done = threading.Event()

        def end() -> None:
            self.end()
            self.has_ended = True
            done.set()

        if threading.current_thread() is threading.main_thread():
            end()
        else:
            self.loop.call_soon_threadsafe(end)
            assert done.wait(10)

    def get_request(self) -> Any:
        self.at("before get_request")
        request = super().get_request()  # type: ignore[misc]
        self.at("get_request")
        return request


def _with(hook: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any) -> Any:
        self.at(hook)
        return getattr(super(Ending, self), hook)(*args)

    return call


for _hook in HOOKS[2:5] + HOOKS[7:]:
    setattr(Ending, _hook, _with(_hook))


def shut_down(server: Any) -> None:
    def begin() -> None:
        server.ending = server.loop.create_task(server.shutdown(0.5))

    if asyncio._get_running_loop() is None:
        # In a greenlet, where no task can begin.
        server.loop.call_soon(begin)
    else:
        begin()


def cancel(server: Any) -> None:
    server.serving.cancel()


def close(server: Any) -> None:
    server.server_close()


def close_and_shut_down(server: Any) -> None:
    server.server_close()
    shut_down(server)


ENDS = {
    "server_close": close,
    "shutdown": shut_down,
    "cancel": cancel,
    "server_close and shutdown": close_and_shut_down,
}

SERVERS: dict[str, Any] = {
    "tasks": (aiosocketserver.TCPServer, Coroutine, Failing),
    "threads": (aiosocketserver.ThreadingTCPServer, Legacy, LegacyFailing),
    "greenlets": (aiosocketserver.GreenletTCPServer, Legacy, LegacyFailing),
}


async def outcome(client: Peer) -> bytes:
    """What a client gets until its connection ends, for it may be reset; never for ever."""
    async with asyncio.timeout(20):
        try:
            await client.send(b"?")
            return await client.receive_all()
        except ConnectionError:
            return b""
        finally:
            client.sock.close()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", SERVERS)
async def test_the_end_may_come_at_any_hook(kind: str, end: str, hook: str) -> None:
    base, handler, failing = SERVERS[kind]
    server_class: Any = type("Server", (Ending, base), {"hook": hook})
    server = server_class(LOCALHOST, failing if hook == "handle_error" else handler)
    server.loop = asyncio.get_running_loop()
    server.end = lambda: ENDS[end](server)
    server.ending = None
    async with contextlib.AsyncExitStack() as stack:
        # In the backlog when serving begins, so that one batch takes them all.
        clients = [await stack.enter_async_context(client_of(server.server_address)) for _ in "123"]
        server.serving = asyncio.create_task(server.serve_forever())
        outcomes = [asyncio.create_task(outcome(client)) for client in clients]
        await until_later(lambda: server.has_ended)
        if server.ending is not None:
            await server.ending
        await server.shutdown(0.5)
        server.server_close()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serving
        for answer in await asyncio.gather(*outcomes):
            assert answer in (b"served", b"")
        # One that has shut the server down itself was not waited for.
        await until_later(lambda: not server.statistics.active)


@pytest.mark.parametrize("turns", range(7))
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("kind", SERVERS)
async def test_the_end_may_come_at_any_turn_of_the_loop(kind: str, end: str, turns: int) -> None:
    base, handler, _ = SERVERS[kind]
    server: Any = type("Server", (Ending, base), {})(LOCALHOST, handler)
    server.loop = asyncio.get_running_loop()
    server.ending = None
    server.serving = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    async with client_of(server.server_address) as client:
        answer = asyncio.create_task(outcome(client))
        for _ in range(turns):
            await asyncio.sleep(0)
        ENDS[end](server)
        if server.ending is not None:
            await server.ending
        await server.shutdown(5)
        server.server_close()
        assert await answer in (b"served", b"")
        with contextlib.suppress(asyncio.CancelledError):
            await server.serving


@pytest.mark.parametrize("turns", range(7))
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_cancelled_handle_request_drops_nobody(kind: str, turns: int) -> None:
    """Who was not taken is served by the next one; who was finds the connection closed."""
    base, handler, _ = SERVERS[kind]
    async with type("Server", (Ending, base), {})(LOCALHOST, handler) as server:
        waiting = asyncio.create_task(server.handle_request())
        await asyncio.sleep(0)
        async with client_of(server.server_address) as client:
            answer = asyncio.create_task(outcome(client))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            if server.statistics.accepted == 0:
                await server.handle_request()
                assert await answer == b"served"
            assert await answer in (b"served", b"")


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("hook", ["verify_request", "get_request"])
async def test_handle_request_serves_whom_it_has_taken_though_a_hook_closes_the_server(
    hook: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    base, handler, _ = SERVERS[kind]

    def close_first(server: Any, name: str) -> None:
        if name == hook:
            server.server_close()

    server: Any = type("Server", (Ending, base), {"at": close_first})(LOCALHOST, handler)
    # Python's time-out of the listening socket, which is put back afterwards.
    server.socket.settimeout(20)
    async with client_of(server.server_address) as client:
        answer = asyncio.create_task(outcome(client))
        await server.handle_request()
        assert await answer == b"served"
        await server.shutdown()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_get_request_that_closes_the_server_is_no_shortage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Server(aiosocketserver.TCPServer):
        def get_request(self) -> Any:
            self.server_close()
            return super().get_request()

    server = Server(LOCALHOST, Coroutine)
    async with client_of(server.server_address) as client:
        serving = asyncio.create_task(server.serve_forever())
        assert await outcome(client) == b""
        await serving
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# A start that fails


def without_context(loop: Any, coroutine: Any) -> Any:
    """A task factory as they were written before Python 3.11."""
    return asyncio.Task(coroutine, loop=loop)


class Limited:
    """Counts the connections of each host, whose addresses it makes up."""

    max_connections_per_host = 5

    def get_request(self) -> Any:
        request, _ = super().get_request()  # type: ignore[misc]
        return request, ("not:an:address", 1)


@pytest.mark.parametrize("failure", ["task factory", "address"])
@pytest.mark.parametrize("way", ["serve_forever", "drain", "handle_request"])
@pytest.mark.parametrize("kind", SERVERS)
async def test_a_connection_whose_start_fails_is_closed_and_told(
    kind: str, way: str, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    base, handler, _ = SERVERS[kind]
    bases = (Limited, base) if failure == "address" else (base,)
    server: Any = type("Server", bases, {"at": lambda server, hook: None})(LOCALHOST, handler)
    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    async with client_of(server.server_address) as client, client_of(server.server_address) as two:
        answers = asyncio.gather(outcome(client), outcome(two))
        if way != "handle_request":
            await server.start_serving()
        if failure == "task factory":
            loop.set_task_factory(without_context)
        ending = asyncio.Task(server.shutdown(5), loop=loop) if way == "drain" else None
        try:
            if way == "handle_request":
                for _ in range(2):
                    with pytest.raises((TypeError, ValueError)):
                        await server.handle_request()
            assert list(await answers) == [b"", b""]
            if ending is not None:
                await ending
        finally:
            loop.set_task_factory(factory)
        assert server.statistics.active == 0
        await server.shutdown()
        server.server_close()
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    expected = 0 if way == "handle_request" else 2
    assert sum("could not be served" in message for message in told) == expected


async def test_a_datagram_whose_start_fails_is_closed() -> None:
    closed = []

    class Server(aiosocketserver.UDPServer):
        def close_request(self, request: Any) -> None:
            closed.append(request[0])

    class Handler(aiosocketserver.DatagramRequestHandler):
        async def handle(self) -> None:
            raise AssertionError

    loop = asyncio.get_running_loop()
    factory = loop.get_task_factory()
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        async with Server(LOCALHOST, Handler) as server:
            client.sendto(b"x", server.server_address)
            loop.set_task_factory(without_context)
            try:
                with pytest.raises(TypeError):
                    await server.handle_request()
            finally:
                loop.set_task_factory(factory)
    assert closed == [b"x"]

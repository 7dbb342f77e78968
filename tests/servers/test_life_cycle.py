"""Starting, serving and serving again; servers, their loops and their tasks."""

import asyncio
import contextlib
import gc
import os
import socketserver
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, BaseServer, TCPServer, ThreadingTCPServer
from tests.support import ask, client_of

LOCALHOST = ("127.0.0.1", 0)


class Upper(BaseRequestHandler):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(data.upper())


@pytest.fixture(params=["asyncio", "uvloop"])
def fresh_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop, for tests that need several."""
    if request.param == "asyncio":
        return asyncio.SelectorEventLoop
    new_event_loop: Callable[[], asyncio.AbstractEventLoop]
    new_event_loop = pytest.importorskip("uvloop").new_event_loop
    return new_event_loop


@contextlib.asynccontextmanager
async def serving_forever(server: BaseServer) -> AsyncIterator[asyncio.Task[None]]:
    """`serve_forever()` in a task that has started."""
    task = asyncio.create_task(server.serve_forever())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


# Starting


async def test_a_server_serves_in_the_background_after_start_serving() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.start_serving()
        await server.start_serving()
        assert await ask(server.server_address, b"once") == b"ONCE"


async def test_a_server_made_without_a_loop_serves_on_one() -> None:
    server = await asyncio.to_thread(TCPServer, LOCALHOST, Upper)
    async with server, serving_forever(server):
        assert await ask(server.server_address, b"a") == b"A"


async def test_clients_that_came_before_serving_are_served() -> None:
    async with TCPServer(LOCALHOST, Upper) as server, client_of(server.server_address) as client:
        await client.send(b"early")
        await server.start_serving()
        assert await client.receive(5) == b"EARLY"
        client.finish()


async def test_serve_forever_twice_at_once_is_an_error() -> None:
    async with TCPServer(LOCALHOST, Upper) as server, serving_forever(server):
        with pytest.raises(RuntimeError, match=r"serve_forever\(\) is running already"):
            await server.serve_forever()
        assert await ask(server.server_address, b"still") == b"STILL"


@pytest.mark.parametrize("interval", [0, -1.0])
async def test_a_poll_interval_that_would_spin_is_an_error(interval: float) -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        with pytest.raises(ValueError, match="poll_interval must be above 0"):
            await server.serve_forever(interval)


async def test_serve_forever_follows_a_shutdown() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        for question in (b"first", b"second"):
            async with serving_forever(server) as task:
                assert await ask(server.server_address, question) == question.upper()
                await server.shutdown()
                await task


async def test_a_cancelled_serve_forever_stops_accepting_and_lets_handlers_go_on() -> None:
    async with TCPServer(LOCALHOST, Upper) as server, client_of(server.server_address) as before:
        async with serving_forever(server):
            await before.send(b"x")
            assert await before.receive(1) == b"X"
        async with client_of(server.server_address) as after:
            await after.send(b"after")
            await before.send(b"y")
            assert await before.receive(1) == b"Y"
            assert server.statistics.handlers_failed == 0
            with pytest.raises(BlockingIOError):
                after.sock.recv(5)
            async with serving_forever(server):
                assert await after.receive(5) == b"AFTER"
            before.finish()
            after.finish()


async def test_use_after_server_close_is_an_error() -> None:
    server = TCPServer(LOCALHOST, Upper)
    server.server_close()
    server.server_close()
    for use in (server.start_serving, server.serve_forever, server.handle_request):
        with pytest.raises(RuntimeError, match="the server was closed"):
            await use()
    await server.shutdown()


async def test_server_close_stops_accepting_and_requests_go_on() -> None:
    server = TCPServer(LOCALHOST, Upper)
    await server.start_serving()
    async with client_of(server.server_address) as client:
        await client.send(b"a")
        assert await client.receive(1) == b"A"
        server.server_close()
        with pytest.raises(ConnectionRefusedError):
            await ask(server.server_address)
        await client.send(b"b")
        assert await client.receive(1) == b"B"
        client.finish()
        await server.shutdown()


async def test_a_socket_that_does_not_listen_is_told() -> None:
    async with TCPServer(LOCALHOST, Upper, bind_and_activate=False) as server:
        server.server_bind()
        for use in (server.serve_forever, server.handle_request):
            with pytest.raises(RuntimeError, match="does not listen"):
                await use()
        server.server_activate()
        await server.start_serving()
        assert await ask(server.server_address, b"a") == b"A"


async def test_the_base_class_alone_cannot_serve() -> None:
    with pytest.raises(TypeError, match="BaseServer has no socket"):
        await BaseServer(None, Upper).start_serving()


async def test_processes_that_share_a_socket_do_not_make_each_other_block() -> None:
    """O_NONBLOCK is of the open socket, and not of a process's descriptor."""
    async with TCPServer(LOCALHOST, Upper) as server:
        other = TCPServer(server.server_address, Upper, bind_and_activate=False)
        other.socket.close()
        other.socket = server.socket.dup()
        async with other:
            await server.start_serving()
            await other.start_serving()
            await other.shutdown()
            assert not os.get_blocking(server.fileno())
            assert await ask(server.server_address, b"a") == b"A"
            await server.shutdown()
            one = asyncio.create_task(other.handle_request())
            assert await ask(server.server_address, b"a") == b"A"
            await one
            assert not os.get_blocking(server.fileno())


async def test_the_time_out_of_the_listening_socket_is_put_back_after_serving() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        server.socket.settimeout(7)
        await server.start_serving()
        assert server.socket.gettimeout() == 0
        await server.shutdown()
        assert server.socket.gettimeout() == 7


# service_actions


async def test_service_actions_is_called_again_and_again() -> None:
    called = asyncio.Event()
    calls = 0

    class Server(TCPServer):
        def service_actions(self) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                called.set()

    async with Server(LOCALHOST, Upper) as server:
        task = asyncio.create_task(server.serve_forever(0.001))
        await asyncio.wait_for(called.wait(), 10)
        await server.shutdown()
        await task


async def test_service_actions_is_not_called_after_the_shutdown() -> None:
    class Server(TCPServer):
        async def service_actions(self) -> None:
            raise AssertionError("the server was shut down before its first interval ended")

    async with Server(LOCALHOST, Upper) as server:
        task = asyncio.create_task(server.serve_forever(1000))
        await asyncio.sleep(0)
        await server.shutdown()
        await task


async def test_an_exception_in_service_actions_ends_serve_forever() -> None:
    class Server(TCPServer):
        async def service_actions(self) -> None:
            await asyncio.sleep(0)
            raise LookupError("enough")

    async with Server(LOCALHOST, Upper) as server:
        with pytest.raises(LookupError, match="enough"):
            await server.serve_forever(0.001)


async def test_no_timer_runs_without_service_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_wait(*args: object, **kwargs: object) -> None:
        raise AssertionError("a timer was started")

    async with TCPServer(LOCALHOST, Upper) as server:
        with monkeypatch.context() as patched:
            patched.setattr("aiosocketserver.servers.base.asyncio.wait", no_wait)
            task = asyncio.create_task(server.serve_forever(0.001))
            assert await ask(server.server_address, b"a") == b"A"
            await server.shutdown()
            await task


# Loops


def test_a_server_is_used_on_one_loop_after_another(
    fresh_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    server = TCPServer(LOCALHOST, Upper)

    async def serve_and_stop(question: bytes, orderly: bool) -> None:
        await server.start_serving()
        assert await ask(server.server_address, question) == question.upper()
        if orderly:
            await server.shutdown()

    # A loop may also end under the server, which then starts anew on the next one.
    for question, orderly in ((b"a", True), (b"b", False), (b"c", False), (b"d", True)):
        with asyncio.Runner(loop_factory=fresh_loop) as runner:
            runner.run(serve_and_stop(question, orderly))
    server.server_close()


def test_a_server_is_closed_after_its_loop(
    fresh_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    server = TCPServer(LOCALHOST, Upper)
    with asyncio.Runner(loop_factory=fresh_loop) as runner:
        runner.run(server.start_serving())
    server.server_close()
    assert server.fileno() == -1


def test_a_thread_that_outlives_its_loop_takes_no_room_on_the_next(
    fresh_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    class Legacy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            threads.append(threading.current_thread())
            self.request.sendall(b"!")
            release.wait()

    server = ThreadingTCPServer(LOCALHOST, Legacy, max_threads=1, reuse_threads=False)

    async def serve() -> None:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(1) == b"!"

    for _ in range(3):
        release.clear()
        with asyncio.Runner(loop_factory=fresh_loop) as runner:
            runner.run(serve())
        release.set()
        threads[-1].join()
    server.server_close()


async def test_a_socket_closed_under_the_server_leaves_nothing_on_the_loop() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.start_serving()
        server.socket.close()
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"a") == b"A"


async def test_one_server_on_two_loops_at_once_is_an_error() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.start_serving()
        with pytest.raises(RuntimeError, match="already serving on another event loop"):
            await asyncio.to_thread(asyncio.run, server.start_serving())
        assert await ask(server.server_address, b"a") == b"A"


def test_a_loop_that_cannot_watch_sockets_is_told() -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(self, *args: object) -> Any:
            raise NotImplementedError

        def _add_reader(self, *args: Any) -> Any:
            # The loop's own wake-up socket.
            return super()._add_reader(*args)  # type: ignore[misc]

    server = TCPServer(LOCALHOST, Upper)

    async def try_all() -> None:
        for use in (server.serve_forever, server.handle_request, server.start_serving):
            with pytest.raises(RuntimeError, match=r"Proactor cannot watch sockets.*add_reader"):
                await use()

    with asyncio.Runner(loop_factory=Proactor) as runner:
        runner.run(try_all())
    assert server.socket.gettimeout() is None
    server.server_close()


# Tasks and contexts


async def test_waiting_handlers_survive_the_garbage_collector() -> None:
    class Waiting(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"1")
            # Nothing but the server keeps this event, and the task that waits for it, alive.
            await asyncio.Event().wait()

    async with TCPServer(LOCALHOST, Waiting) as server, client_of(server.server_address) as client:
        await server.start_serving()
        assert await client.receive(1) == b"1"
        gc.collect()
        with pytest.raises(BlockingIOError):
            client.sock.recv(1)
        client.finish()
        await server.shutdown(0)
        assert await client.receive_all() == b""


variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_connections_do_not_share_context_variables() -> None:
    class Marking(BaseRequestHandler):
        async def handle(self) -> None:
            before = variable.get()
            variable.set("of another connection")
            await self.request.sendall(before.encode())

    variable.set("of the starter")
    async with TCPServer(LOCALHOST, Marking) as server:
        await server.start_serving()
        for _ in range(3):
            assert await ask(server.server_address) == b"of the starter"
        assert variable.get() == "of the starter"


async def test_many_servers_share_one_loop() -> None:
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(TCPServer(LOCALHOST, Upper)) for _ in range(5)]
        for server in servers:
            await server.start_serving()
        questions = [str(server.server_address).encode() for server in servers]
        answers = await asyncio.gather(
            *(ask(s.server_address, q) for s, q in zip(servers, questions, strict=True))
        )
        assert answers == [question.upper() for question in questions]


async def test_a_handler_knows_the_server_and_the_client() -> None:
    seen: list[Any] = []

    class Seeing(BaseRequestHandler):
        async def handle(self) -> None:
            seen.extend((self.server, self.client_address))

    async with TCPServer(LOCALHOST, Seeing) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            address = client.sock.getsockname()
            assert await client.receive_all() == b""
    assert seen == [server, address]


async def test_a_server_can_be_started_from_a_handler_of_another() -> None:
    class Starting(BaseRequestHandler):
        async def handle(self) -> None:
            variable.set("of the first connection")
            await inner.start_serving()

    class Telling(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"here")

    async with TCPServer(LOCALHOST, Telling) as inner, TCPServer(LOCALHOST, Starting) as outer:
        await outer.start_serving()
        assert await ask(outer.server_address) == b""
        assert await ask(inner.server_address) == b"here"


async def test_serve_forever_returns_when_the_server_is_closed() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        serving = asyncio.create_task(server.serve_forever())
        assert await ask(server.server_address, b"a") == b"A"
        server.server_close()
        async with asyncio.timeout(5):
            await serving

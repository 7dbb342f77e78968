"""Legacy handlers that run an event loop of their own, with asyncio.run() or otherwise."""

import asyncio
import socketserver
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests import compat_support
from tests.forking_support import ask, client_of
from tests.greenlet_support import greenlet_server, handling
from tests.support import until
from tests.tls_support import Certificates, tls_client


async def answer() -> bytes:
    """What is true of every task: it has its loop, others run beside it, and it may time out."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    other = asyncio.create_task(asyncio.sleep(0, "other"))
    async with asyncio.timeout(10):
        assert await other == "other"
    assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
    return b"answer"


class RunsALoop(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        # Before it has waited for its client, and afterwards.
        self.wfile.write(asyncio.run(answer()))
        self.rfile.readline()
        self.wfile.write(asyncio.run(answer()))


class ReadsInALoop(socketserver.StreamRequestHandler):
    """Waits for its client within its own loop."""

    def handle(self) -> None:
        asyncio.run(self.converse())

    async def converse(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for line in self.rfile:
            assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
            self.wfile.write(await answer() + b" " + line)


KINDS = [
    aiosocketserver.GreenletTCPServer,
    aiosocketserver.ThreadingTCPServer,
    aiosocketserver.ForkingTCPServer,
]
UNIX_KINDS = [
    aiosocketserver.GreenletUnixStreamServer,
    aiosocketserver.ThreadingUnixStreamServer,
    aiosocketserver.ForkingUnixStreamServer,
]
HANDLERS = [
    pytest.param(RunsALoop, b"answeranswer", id="runs"),
    pytest.param(ReadsInALoop, b"answer 1\nanswer 2\n", id="reads"),
]


@pytest.mark.parametrize(("handler", "expected"), HANDLERS)
@pytest.mark.parametrize("kind", KINDS)
async def test_on_tcp(kind: Any, handler: Any, expected: bytes) -> None:
    async with kind(("127.0.0.1", 0), handler) as server:
        await server.start_serving()
        for _ in range(3):
            assert await ask(server.server_address, b"1\n2\n") == expected
    assert server.statistics.handlers_failed == 0


@pytest.mark.parametrize(("handler", "expected"), HANDLERS)
@pytest.mark.parametrize("kind", UNIX_KINDS)
async def test_on_unix(kind: Any, handler: Any, expected: bytes, tmp_path: Path) -> None:
    async with kind(str(tmp_path / "s"), handler) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"1\n2\n") == expected


@pytest.mark.parametrize(
    "kind", [aiosocketserver.ThreadingUDPServer, aiosocketserver.ForkingUDPServer]
)
async def test_on_udp(kind: Any) -> None:
    class Handler(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(asyncio.run(answer()))

    async with kind(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
            Answers, remote_addr=server.server_address
        )
        transport.sendto(b"?")
        assert await protocol.answer == b"answer"
        transport.close()


class Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answer = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answer.set_result(data)


@pytest.mark.parametrize(("handler", "expected"), HANDLERS)
async def test_in_greenlets_under_tls(handler: Any, expected: bytes, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    async with greenlet_server(handler, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        context = certificates.client_context()
        async with tls_client(server.server_address, context) as (reader, writer):
            writer.write(expected.replace(b"answer ", b"").replace(b"answer", b"\n"))
            assert await reader.readexactly(len(expected)) == expected


@pytest.mark.parametrize("entry", ["serve_forever", "handle_request"])
async def test_in_greenlets_however_the_server_is_run(entry: str) -> None:
    async with greenlet_server(ReadsInALoop) as server:
        running = asyncio.create_task(getattr(server, entry)())
        assert await ask(server.server_address, b"1\n") == b"answer 1\n"
        await server.shutdown()
        await running
    asyncio.get_running_loop()


@pytest.mark.parametrize("loop", compat_support.LOOP_NAMES)
@pytest.mark.parametrize(("handler", "expected"), HANDLERS)
@pytest.mark.parametrize(
    "kind", [compat.GreenletTCPServer, compat.ThreadingTCPServer, compat.ForkingTCPServer]
)
def test_on_compat(
    kind: Any, handler: Any, expected: bytes, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", loop)
    with compat_support.serving(kind(("127.0.0.1", 0), handler)) as server:
        for _ in range(3):
            assert compat_support.ask(server.server_address, b"1\n2\n") == expected


def test_on_compat_in_the_main_thread() -> None:
    """Where asyncio.run() takes Ctrl-C, and gives it back."""
    with compat.GreenletTCPServer(("127.0.0.1", 0), ReadsInALoop) as server:
        answers: list[bytes] = []

        def visit() -> None:
            try:
                answers.append(compat_support.ask(server.server_address, b"1\n"))
                answers.append(compat_support.ask(server.server_address, b"1\n"))
            finally:
                server.shutdown()

        with compat_support.in_thread(visit):
            server.serve_forever()
    assert answers == [b"answer 1\n"] * 2


# --- greenlets, which share one thread ---


async def test_a_handler_runs_in_no_task_of_the_servers_loop() -> None:
    """From its first line on, which the connection's task calls."""
    loop = asyncio.get_running_loop()
    tasks: list[object] = []

    def handle(handler: Any) -> None:
        tasks.append(asyncio.current_task(loop))
        handler.request.recv(1)
        tasks.append(asyncio.current_task(loop))

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        task = asyncio.current_task()
        assert await ask(server.server_address, b"x") == b""
        assert asyncio.current_task() is task
    assert tasks == [None, None]


async def test_loops_of_several_greenlets_are_their_own() -> None:
    """Each waits for its client within its loop, while the others and the server go on."""

    class Slow(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(await self.rfile.readline())

    async with (
        greenlet_server(ReadsInALoop) as server,
        aiosocketserver.TCPServer(("127.0.0.1", 0), Slow) as beside,
        client_of(server.server_address) as one,
        client_of(server.server_address) as two,
    ):
        await server.start_serving()
        await beside.start_serving()
        for number in range(3):
            line = b"%d\n" % number
            for client in (one, two):
                await client.send(line)
            assert await ask(beside.server_address, b"beside\n") == b"beside\n"
            # Not in the order in which they have begun.
            for client in (two, one):
                assert await client.receive(9) == b"answer " + line
        task = asyncio.current_task()
        for client in (one, two):
            client.finish()
            assert await client.receive_all() == b""
        assert asyncio.current_task() is task


async def test_ways_to_the_servers_loop_from_within_a_handlers_own() -> None:
    servers_loop = asyncio.get_running_loop()

    async def on_loop() -> str:
        assert asyncio.get_running_loop() is servers_loop
        task = asyncio.current_task()
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        return "on the loop"

    class Crosses(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asyncio.run(self.cross())

        async def cross(self) -> None:
            server: Any = self.server
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            self.wfile.write(server.run_on_loop(on_loop).encode() + b"\n")
            assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
            self.wfile.write(server.run_blocking(lambda: b"in a thread\n"))
            assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
            self.wfile.write(await answer())

    async with greenlet_server(Crosses) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"on the loop\nin a thread\nanswer"


async def test_asynchronous_generators_belong_to_the_loop_that_iterates_them() -> None:
    """The hooks for them are the thread's, and a loop sets them while it runs."""

    async def on_servers_loop() -> object:
        return sys.get_asyncgen_hooks()

    servers = sys.get_asyncgen_hooks()
    seen: list[tuple[Any, Any]] = []

    class Reads(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asyncio.run(self.read())

        async def read(self) -> None:
            server: Any = self.server
            own = sys.get_asyncgen_hooks()
            self.wfile.write(b"begun\n")
            self.rfile.readline()
            seen.append((own, sys.get_asyncgen_hooks()))
            seen.append((servers, server.run_on_loop(on_servers_loop)))

    async with greenlet_server(Reads) as server, client_of(server.server_address) as client:
        await server.start_serving()
        assert await client.receive(6) == b"begun\n"
        assert sys.get_asyncgen_hooks() == servers
        await client.send(b"\n")
        assert await client.receive_all() == b""
        assert sys.get_asyncgen_hooks() == servers
    [(own, later), (expected, on_loop)] = seen
    assert own == later
    assert own != servers
    assert on_loop == expected


async def test_a_handler_is_cut_where_it_waits_within_its_loop() -> None:
    ended: list[str] = []

    class Waits(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asyncio.run(self.wait())

        async def wait(self) -> None:
            loop = asyncio.get_running_loop()
            self.wfile.write(b"begun\n")
            try:
                self.rfile.readline()
            finally:
                assert asyncio.get_running_loop() is loop
                await asyncio.sleep(0)
                ended.append("in its loop")

    async with greenlet_server(Waits) as server, client_of(server.server_address) as client:
        await server.start_serving()
        assert await client.receive(6) == b"begun\n"
        report = await server.shutdown(0)
        assert (report.cut, report.abandoned) == (1, 0)
    assert ended == ["in its loop"]
    await asyncio.sleep(0)


async def test_an_error_within_its_loop_is_the_handlers(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("within its loop")

    def handle(handler: Any) -> None:
        handler.request.recv(1)
        asyncio.run(fail())

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"x") == b""
        assert await ask(server.server_address, b"x") == b""
        await until(lambda: server.statistics.handlers_failed == 2)
    assert "ValueError: within its loop" in caplog.text


@pytest.mark.parametrize("hook", ["finish_request", "handle_error", "shutdown_request"])
async def test_hooks_in_the_greenlet_may_run_a_loop(hook: str) -> None:
    ran: list[bytes] = []

    def run(self: Any, request: Any, *more: Any) -> None:
        ran.append(asyncio.run(answer()))
        getattr(aiosocketserver.GreenletTCPServer, hook)(self, request, *more)

    def fail(handler: Any) -> None:
        raise ValueError("for handle_error")

    server_class = type("Server", (aiosocketserver.GreenletTCPServer,), {hook: run})
    async with server_class(("127.0.0.1", 0), handling(fail)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    assert ran == [b"answer"]


def by_runner() -> bytes:
    with asyncio.Runner() as runner:
        return runner.run(answer())


def by_loop() -> bytes:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(answer())
    finally:
        loop.close()


def by_eager_loop() -> bytes:
    loop = asyncio.new_event_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    try:
        return loop.run_until_complete(answer())
    finally:
        loop.close()


def by_uvloop() -> bytes:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(answer())


@pytest.mark.parametrize("run", [by_runner, by_loop, by_eager_loop, by_uvloop])
async def test_every_way_to_run_a_loop(run: Callable[[], bytes]) -> None:
    def handle(handler: Any) -> None:
        handler.request.sendall(run())
        handler.request.recv(1)
        handler.request.sendall(run())

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"x") == b"answeranswer"

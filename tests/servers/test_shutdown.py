"""What shutdown() waits for, what it cuts, and from where it may be called."""

import asyncio
import logging
import socket
import socketserver
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, TCPServer, ThreadingTCPServer
from tests.support import Peer, ask, client_of, until_queued

LOCALHOST = ("127.0.0.1", 0)


class Upper(BaseRequestHandler):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(data.upper())


class Gated(BaseRequestHandler):
    """Says that it is there, and answers when the client has sent something."""

    async def handle(self) -> None:
        await self.request.sendall(b"?")
        await self.request.sendall((await self.request.recv(100)).upper())


async def entered(client: Peer) -> None:
    assert await client.receive(1) == b"?"


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR and record.name == "aiosocketserver"
    ]


# Before, twice, at once


async def test_shutdown_before_serving_does_nothing() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.shutdown()
        await server.start_serving()
        assert await ask(server.server_address, b"a") == b"A"


async def test_shutdown_twice_does_it_once() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.start_serving()
        await server.shutdown()
        await server.shutdown()


async def test_shutdowns_at_once_return_together() -> None:
    async with TCPServer(LOCALHOST, Gated) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        shutdowns = [asyncio.create_task(server.shutdown(None)) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in shutdowns)
        await client.send(b"go")
        client.finish()
        assert await client.receive_all() == b"GO"
        await asyncio.gather(*shutdowns)


async def test_shutdown_can_be_cancelled_and_called_again() -> None:
    async with TCPServer(LOCALHOST, Gated) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        first = asyncio.create_task(server.shutdown())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        assert first.cancelled()
        await client.send(b"go")
        client.finish()
        await server.shutdown(None)
        assert await client.receive_all() == b"GO"


# The backlog


@pytest.mark.parametrize("count", [200, 1])
async def test_connections_in_the_backlog_are_served_before_the_end(count: int) -> None:
    # listen(200) queues 201 on Linux, and listen(0) queues one.
    server = TCPServer(LOCALHOST, Upper, request_queue_size=count - 1)
    async with server:
        await server.start_serving()
        clients = [socket.create_connection(server.server_address, 5) for _ in range(count)]
        for client in clients:
            client.sendall(b"a")
            client.shutdown(socket.SHUT_WR)
        # Nothing of all this gives the loop a turn, where the kernel has them all by now.
        await until_queued(server, count)
        await server.shutdown()
        for client in clients:
            with client:
                assert client.recv(2) == b"A"


async def test_the_backlog_is_taken_after_a_cancelled_serve_forever() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        async with (
            client_of(server.server_address) as first,
            client_of(server.server_address) as second,
        ):
            await until_queued(server, 2)
            for client in first, second:
                await client.send(b"late")
                client.finish()
            await server.shutdown()
            assert await first.receive_all() == b"LATE"
            assert await second.receive_all() == b"LATE"


async def test_the_backlog_behind_a_limit_is_taken_as_there_is_room(
    errors: Callable[[], list[str]],
) -> None:
    class Legacy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"?")
            self.wfile.write(self.rfile.readline().upper())

    async with ThreadingTCPServer(LOCALHOST, Legacy, max_threads=1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as slow:
            await slow.send(b"s")
            await entered(slow)
            asking = [asyncio.create_task(ask(server.server_address, b"a\n")) for _ in range(5)]
            await until_queued(server, 5)
            stopping = asyncio.create_task(server.shutdown(None))
            await asyncio.sleep(0)
            await slow.send(b"low\n")
            slow.finish()
            assert await slow.receive_all() == b"SLOW\n"
            assert await asyncio.gather(*asking) == [b"?A\n"] * 5
            await stopping
    assert errors() == []


# Deadlines


async def test_a_handler_that_ends_in_time_is_not_cut() -> None:
    async with TCPServer(LOCALHOST, Gated) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        stopping = asyncio.create_task(server.shutdown(30))
        await asyncio.sleep(0)
        assert not stopping.done()
        await client.send(b"done")
        client.finish()
        assert await client.receive_all() == b"DONE"
        await stopping


@pytest.mark.parametrize("by", ["argument", "option", "class"])
async def test_a_handler_is_cancelled_at_the_deadline(
    by: str, errors: Callable[[], list[str]]
) -> None:
    ends = []

    class Endless(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                ends.append(error.args)
                await self.request.sendall(b"bye")
                raise

    class Impatient(TCPServer):
        shutdown_timeout = 0.01

    if by == "class":
        server: TCPServer = Impatient(LOCALHOST, Endless)
    else:
        server = TCPServer(LOCALHOST, Endless, shutdown_timeout=0.01 if by == "option" else 1000)
    async with server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        client.finish()
        await (server.shutdown(0.01) if by == "argument" else server.shutdown())
        assert await client.receive_all() == b"bye"
    assert ends == [("the server is shutting down",)]
    assert server.statistics.handlers_failed == 0
    assert errors() == []


async def test_a_handler_that_ignores_its_cancellation_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr("aiosocketserver.servers.draining._GRACE", 0.05)

    class Stubborn(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await self.request.recv(1)

    async with TCPServer(LOCALHOST, Stubborn) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        await server.shutdown(0)
        assert not server.requests()
        with pytest.raises(ConnectionResetError):
            await client.receive_all()
    assert errors() == []


async def test_a_handler_that_cannot_be_ended_is_reported_and_abandoned(
    monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr("aiosocketserver.servers.draining._GRACE", 0.05)
    release = asyncio.Event()

    class Immortal(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

    async with TCPServer(LOCALHOST, Immortal) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        await server.shutdown(0)
        await serving
        (line,) = errors()
        assert "abandoned" in line
        assert repr(client.sock.getsockname()) in line
        release.set()
        with pytest.raises(ConnectionResetError):
            await client.receive_all()


async def test_shutdown_waits_until_clients_have_their_answers() -> None:
    answer = bytes(4 * 1024 * 1024)

    class Large(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(answer)

    async with TCPServer(LOCALHOST, Large) as server, client_of(server.server_address) as client:
        await server.start_serving()
        stopping = asyncio.create_task(server.shutdown(None))
        assert await client.receive(len(answer)) == answer
        client.finish()
        client.sock.close()
        await stopping


async def test_a_client_that_never_closes_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aiosocketserver.servers.draining._GRACE", 0.05)

    class Brief(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")

    async with (
        TCPServer(LOCALHOST, Brief, linger_timeout=1000) as server,
        client_of(server.server_address) as client,
    ):
        await server.start_serving()
        assert await client.receive_all() == b"?"
        await server.shutdown(0)


async def test_a_thread_that_cannot_be_ended_is_reported_and_abandoned(
    monkeypatch: pytest.MonkeyPatch, errors: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr("aiosocketserver.servers.draining._GRACE", 0.05)
    release = threading.Event()

    class Immortal(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"?")
            release.wait()

    async with ThreadingTCPServer(LOCALHOST, Immortal) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await entered(client)
            await server.shutdown(0)
            (line,) = errors()
            assert "the thread 'Thread-" in line
            assert "abandoned" in line
            release.set()


# From a handler


async def _directly(server: TCPServer) -> None:
    await server.shutdown()


async def _in_a_child_task(server: TCPServer) -> None:
    await asyncio.create_task(server.shutdown())


async def _and_leave(server: TCPServer) -> None:
    server.stopping = asyncio.create_task(server.shutdown())  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop", [_directly, _in_a_child_task, _and_leave])
async def test_a_handler_can_shut_its_server_down(
    stop: Callable[[TCPServer], Awaitable[None]],
) -> None:
    class Stopping(BaseRequestHandler):
        async def handle(self) -> None:
            assert isinstance(self.server, TCPServer)
            await stop(self.server)
            await self.request.sendall(b"stopped")

    # No deadline: waiting for itself would never end.
    async with TCPServer(LOCALHOST, Stopping, shutdown_timeout=None) as server:
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        assert await ask(server.server_address) == b"stopped"
        await serving


async def test_a_handler_that_shuts_down_waits_for_the_others() -> None:
    order = []

    class Mixed(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            if await self.request.recv(10) == b"stop":
                stopping = asyncio.create_task(self.server.shutdown(None))
                await asyncio.sleep(0)
                await self.request.sendall(b"stopping")
                await stopping
                order.append("stopped")
            else:
                order.append("other")

    async with TCPServer(LOCALHOST, Mixed) as server:
        serving = asyncio.create_task(server.serve_forever())
        async with (
            client_of(server.server_address) as other,
            client_of(server.server_address) as stopper,
        ):
            await entered(other)
            await entered(stopper)
            await stopper.send(b"stop")
            assert await stopper.receive(8) == b"stopping"
            await other.send(b"go on")
            other.finish()
            stopper.finish()
            assert await stopper.receive_all() == b""
        await serving
    assert order == ["other", "stopped"]


async def test_two_handlers_that_shut_down_at_once_do_not_wait_for_each_other() -> None:
    both_in = asyncio.Barrier(2)

    class Stopping(BaseRequestHandler):
        async def handle(self) -> None:
            await both_in.wait()
            await self.server.shutdown(None)
            await self.request.sendall(b"stopped")

    async with TCPServer(LOCALHOST, Stopping) as server:
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        answers = await asyncio.gather(*(ask(server.server_address) for _ in range(2)))
        assert answers == [b"stopped"] * 2
        await serving


async def test_a_handler_may_shut_down_while_another_task_does() -> None:
    class Stopping(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            await self.request.recv(10)
            await self.server.shutdown(None)
            await self.request.sendall(b"stopped")

    async with TCPServer(LOCALHOST, Stopping) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        stopping = asyncio.create_task(server.shutdown(None))
        await asyncio.sleep(0)
        await client.send(b"you too")
        client.finish()
        assert await client.receive_all() == b"stopped"
        await stopping


async def test_a_handler_may_shut_another_server_down() -> None:
    class Stopping(BaseRequestHandler):
        async def handle(self) -> None:
            await inner.shutdown(None)

    async with TCPServer(LOCALHOST, Upper) as inner, TCPServer(LOCALHOST, Stopping) as outer:
        serving = asyncio.create_task(inner.serve_forever())
        await outer.start_serving()
        assert await ask(inner.server_address, b"a") == b"A"
        assert await ask(outer.server_address) == b""
        await serving


async def test_shutdown_from_another_thread_is_an_error_that_names_the_way() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        await server.start_serving()
        with pytest.raises(RuntimeError, match=r"server\.run_on_loop\(server\.shutdown\)"):
            await asyncio.to_thread(lambda: server.shutdown().close())
        assert await ask(server.server_address, b"a") == b"A"
        thread = threading.Thread(target=server.run_on_loop, args=(server.shutdown,))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert not server._serving


async def test_serving_cannot_begin_while_it_ends() -> None:
    async with TCPServer(LOCALHOST, Gated) as server, client_of(server.server_address) as client:
        await server.start_serving()
        await entered(client)
        stopping = asyncio.create_task(server.shutdown(None))
        await asyncio.sleep(0)
        # It is over as soon as the shutdown is.
        serving = asyncio.create_task(server.serve_forever())
        await client.send(b"go")
        client.finish()
        assert await client.receive_all() == b"GO"
        await stopping
        await serving


async def test_the_end_of_the_block_shuts_down_and_closes() -> None:
    async with TCPServer(LOCALHOST, Gated) as server:
        await server.start_serving()
        client = socket.create_connection(server.server_address)
        client.sendall(b"in the backlog")
        client.shutdown(socket.SHUT_WR)
    with client:
        assert client.recv(100, socket.MSG_WAITALL) == b"?IN THE BACKLOG"
    assert server.fileno() == -1


async def test_a_connection_that_is_cancelled_before_its_task_begins_is_closed() -> None:
    main = asyncio.current_task()

    class Cancels(TCPServer):
        def get_request(self) -> tuple[Any, Any]:
            # Before the first step of the task that is made next, unless tasks are eager.
            asyncio.get_running_loop().call_soon(self.cancel_all)
            return super().get_request()

        def cancel_all(self) -> None:
            for task in asyncio.all_tasks() - {main}:
                task.cancel()

    async with Cancels(("127.0.0.1", 0), Upper) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
        assert not server.requests()

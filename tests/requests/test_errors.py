"""Errors say whose fault: a handler's own, a client that vanished, a hook that raises."""

import asyncio
import errno
import logging
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from aiosocketserver import BaseRequestHandler, StreamRequestHandler, TCPServer
from tests.support import Peer, ask, client_of

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """What the package has logged."""
    caplog.set_level(logging.DEBUG, "aiosocketserver")
    return lambda: [r for r in caplog.records if r.name == "aiosocketserver"]


def reset(client: Peer) -> None:
    """Close the connection so that the server's next call fails with ECONNRESET."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.sock.close()


async def counted(server: TCPServer) -> tuple[int, int]:
    await server.shutdown()
    return server.statistics.clients_vanished, server.statistics.handlers_failed


# A handler that raises


class InSetup(BaseRequestHandler):
    async def setup(self) -> None:
        raise LookupError("in setup")

    async def handle(self) -> None:
        raise AssertionError("handle() runs only after setup()")

    async def finish(self) -> None:
        raise AssertionError("finish() runs only after setup()")


class InHandle(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"before")
        raise LookupError("in handle")

    async def finish(self) -> None:
        await self.request.sendall(b", finished")


class InFinish(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"before")

    async def finish(self) -> None:
        raise LookupError("in finish")


class InConstructor(BaseRequestHandler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        raise LookupError("in constructor")

    async def handle(self) -> None:
        raise AssertionError("there is no handler")


@pytest.mark.parametrize(
    ("handler", "answer"),
    [(InSetup, b""), (InHandle, b"before, finished"), (InFinish, b"before"), (InConstructor, b"")],
)
async def test_a_handler_that_raises_costs_its_own_connection_only(
    handler: type[BaseRequestHandler],
    answer: bytes,
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    async with TCPServer(LOCALHOST, handler) as server:
        await server.start_serving()
        for _ in range(2):
            assert await ask(server.server_address) == answer
        assert await counted(server) == (0, 2)
    for record in records():
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None
        assert record.exc_info[0] is LookupError
    assert len(records()) == 2


async def test_handle_error_sees_the_exception_and_the_request() -> None:
    seen: list[Any] = []

    class Server(TCPServer):
        async def handle_error(self, request: Any, client_address: Any) -> None:
            await asyncio.sleep(0)
            seen.extend((sys.exception(), traceback.format_exc(), client_address))
            await request.sendall(b", sorry")

    async with Server(LOCALHOST, InHandle) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            client_address = client.sock.getsockname()
            client.finish()
            assert await client.receive_all() == b"before, finished, sorry"
    assert isinstance(seen[0], LookupError)
    assert "in handle" in seen[1]
    assert seen[2] == client_address


async def test_a_group_of_errors_is_the_handlers_failure() -> None:
    class Grouping(BaseRequestHandler):
        async def handle(self) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.fail())

        async def fail(self) -> NoReturn:
            raise LookupError

    async with TCPServer(LOCALHOST, Grouping) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert await counted(server) == (0, 1)


async def test_a_cancellation_that_nobody_asked_for_is_the_handlers_failure(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    class Cancelled(BaseRequestHandler):
        async def handle(self) -> None:
            other = asyncio.create_task(asyncio.sleep(1000))
            await asyncio.sleep(0)
            other.cancel()
            await other

    async with TCPServer(LOCALHOST, Cancelled) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert await counted(server) == (0, 1)
    (record,) = records()
    assert record.exc_info is not None
    assert record.exc_info[0] is asyncio.CancelledError


async def test_a_cancellation_that_somebody_asked_for_is_no_failure(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    tasks: list[asyncio.Task[Any]] = []

    class Kept(BaseRequestHandler):
        async def handle(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await self.request.sendall(b"?")
            await asyncio.Event().wait()

    async with TCPServer(LOCALHOST, Kept) as server, client_of(server.server_address) as client:
        await server.start_serving()
        assert await client.receive(1) == b"?"
        tasks[0].cancel()
        client.finish()
        assert await client.receive_all() == b""
        assert await counted(server) == (0, 0)
    assert records() == []


# Clients that vanish


class Receiving(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"?")
        await self.request.recv(100)


async def test_a_client_that_vanishes_is_counted_and_has_no_traceback(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    async with TCPServer(LOCALHOST, Receiving) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(1) == b"?"
            name = client.sock.getsockname()
            reset(client)
        assert await counted(server) == (1, 0)
    (record,) = records()
    assert record.levelno == logging.INFO
    assert record.exc_info is None
    assert repr(name) in record.getMessage()


async def test_a_client_that_is_too_slow_counts_as_vanished() -> None:
    class Patient(StreamRequestHandler):
        timeout = 0.01

        async def handle(self) -> None:
            await self.rfile.readline()

    async with TCPServer(LOCALHOST, Patient) as server, client_of(server.server_address) as client:
        await server.start_serving()
        assert await client.receive_all() == b""
        client.finish()
        assert await counted(server) == (1, 0)


async def test_a_group_of_the_connections_own_errors_is_a_client_that_vanished(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    class Grouping(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            async with asyncio.TaskGroup() as group:
                group.create_task(self.request.recv(100))

    async with TCPServer(LOCALHOST, Grouping) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(1) == b"?"
            name = client.sock.getsockname()
            reset(client)
        assert await counted(server) == (1, 0)
    (record,) = records()
    # What happened, and not that it happened in a group.
    assert record.getMessage() == (
        f"the client {name!r} was lost: [Errno {errno.ECONNRESET}] Connection reset by peer"
    )


async def test_a_reset_by_the_handlers_database_is_the_handlers_failure(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    with socket.create_server(LOCALHOST) as database:

        class Asking(BaseRequestHandler):
            async def handle(self) -> None:
                loop = asyncio.get_running_loop()
                async with client_of(database.getsockname()) as upstream:
                    reset(Peer(database.accept()[0]))
                    await loop.sock_recv(upstream.sock, 1)

        async with TCPServer(LOCALHOST, Asking) as server:
            await server.start_serving()
            assert await ask(server.server_address) == b""
            assert await counted(server) == (0, 1)
    (record,) = records()
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ConnectionResetError


async def test_a_reset_of_another_of_the_servers_connections_is_the_handlers_failure() -> None:
    requests: list[Any] = []

    class Relaying(BaseRequestHandler):
        async def handle(self) -> None:
            requests.append(self.request)
            await self.request.sendall(b"?")
            if len(requests) == 1:
                await self.request.recv(100)
                await requests[1].recv(100)
            else:
                await asyncio.Event().wait()

    async with TCPServer(LOCALHOST, Relaying) as server:
        await server.start_serving()
        async with client_of(server.server_address) as one:
            assert await one.receive(1) == b"?"
            async with client_of(server.server_address) as other:
                assert await other.receive(1) == b"?"
                reset(other)
            await one.send(b"now")
            one.finish()
            assert await one.receive_all() == b""
        await server.shutdown(0)
        assert server.statistics.handlers_failed == 1
        assert server.statistics.clients_vanished == 0


# Hooks that raise


async def test_hooks_that_raise_at_the_end_are_reported_and_the_connection_ends(
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    class Server(TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            raise ValueError("in handle_error")

        def shutdown_request(self, request: Any) -> None:
            request.close()
            raise OSError(errno.EIO, "in shutdown_request")

    async with Server(LOCALHOST, InHandle) as server:
        await server.start_serving()
        for _ in range(2):
            assert await ask(server.server_address) == b"before, finished"
        assert await counted(server) == (0, 2)
    assert {record.getMessage() for record in records()} == {
        "handle_error() failed",
        "shutdown_request() failed",
    }


async def test_a_verify_request_that_raises_refuses_the_request() -> None:
    class Server(TCPServer):
        async def verify_request(self, request: Any, client_address: Any) -> bool:
            raise LookupError

    async with Server(LOCALHOST, Receiving) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert await counted(server) == (0, 1)


async def test_a_handle_error_that_is_cancelled_still_ends_the_connection() -> None:
    class Server(TCPServer):
        async def handle_error(self, request: Any, client_address: Any) -> None:
            await request.sendall(b"!")
            await asyncio.Event().wait()

    async with Server(LOCALHOST, InSetup) as server, client_of(server.server_address) as client:
        await server.start_serving()
        assert await client.receive(1) == b"!"
        client.finish()
        await server.shutdown(0)
        assert await client.receive_all() == b""

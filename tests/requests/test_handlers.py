"""The base classes of coroutine handlers: order of calls, class variables, files."""

import asyncio
import errno
import logging
import socket
import socketserver
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    BaseServer,
    DatagramRequestHandler,
    StreamRequestHandler,
    TCPServer,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from tests.support import ask, client_of


@asynccontextmanager
async def serving(handler: type[BaseRequestHandler]) -> AsyncIterator[TCPServer]:
    async with TCPServer(("127.0.0.1", 0), handler) as server:
        await server.start_serving()
        yield server


class Records(BaseRequestHandler):
    """Writes down what is called, and fails in the methods that it is told."""

    calls: ClassVar[list[str]]
    failing: ClassVar[tuple[str, ...]] = ()

    def record(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise ZeroDivisionError(name)

    async def setup(self) -> None:
        self.record("setup")

    async def handle(self) -> None:
        self.record("handle")

    async def finish(self) -> None:
        self.record("finish")


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ((), ["setup", "handle", "finish"]),
        (("setup",), ["setup"]),
        (("handle",), ["setup", "handle", "finish"]),
        (("finish",), ["setup", "handle", "finish"]),
        (("handle", "finish"), ["setup", "handle", "finish"]),
    ],
)
async def test_finish_runs_after_handle_and_not_after_a_failed_setup(
    failing: tuple[str, ...], expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Records):
        pass

    Handler.calls = []
    Handler.failing = failing
    async with serving(Handler) as server:
        assert await ask(server.server_address) == b""
        assert await ask(server.server_address) == b""
    # The failure costs its own connection and nothing else.
    assert Handler.calls == expected * 2
    assert server.statistics.handlers_failed == (2 if failing else 0)
    for record in caplog.records:
        assert record.exc_info
        error = record.exc_info[1]
        assert repr(error) == f"ZeroDivisionError('{failing[-1]}')"
        if len(failing) == 2:
            assert error is not None
            assert repr(error.__context__) == "ZeroDivisionError('handle')"
    assert len(caplog.records) == (2 if failing else 0)


async def test_failure_of_the_handler_is_told_also_when_its_client_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = asyncio.Event()

    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await self.wfile.write(bytes(60_000))
            await gone.wait()
            raise ZeroDivisionError

    caplog.set_level(logging.INFO, "aiosocketserver")
    async with UnixStreamServer(str(tmp_path / "s"), Handler) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.receive(1)
        gone.set()
    (record,) = caplog.records
    assert record.exc_info
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert server.statistics.handlers_failed == 1
    assert server.statistics.clients_vanished == 0


async def test_other_errors_of_finish_are_told_with_that_of_handle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(BaseRequestHandler):
        async def handle(self) -> None:
            raise ZeroDivisionError

        async def finish(self) -> None:
            raise ConnectionResetError(errno.ECONNRESET, "that of a database")

    async with serving(Handler) as server:
        await ask(server.server_address)
    (record,) = caplog.records
    assert record.exc_info
    error = record.exc_info[1]
    assert isinstance(error, ConnectionResetError)
    assert isinstance(error.__context__, ZeroDivisionError)


async def test_handle_must_be_defined(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(BaseRequestHandler):
        async def handle(self) -> None:
            await super().handle()

    async with serving(Handler) as server:
        await ask(server.server_address)
    (record,) = caplog.records
    assert record.exc_info
    assert "Handler does not define handle()" in str(record.exc_info[1])


async def test_handler_may_take_more_arguments() -> None:
    class Greeter(StreamRequestHandler):
        def __init__(
            self, request: Any, client_address: Any, server: BaseServer, greeting: bytes
        ) -> None:
            self.greeting = greeting
            super().__init__(request, client_address, server)

        async def handle(self) -> None:
            await self.wfile.write(self.greeting)

    class Server(TCPServer):
        async def finish_request(self, request: Any, client_address: Any) -> None:
            await Greeter(request, client_address, self, b"welcome")

    async with Server(("127.0.0.1", 0), Greeter) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"welcome"


async def test_instance_variables_are_those_of_socketserver() -> None:
    seen: list[StreamRequestHandler] = []

    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            seen.append(self)
            assert self.connection is self.request
            assert self.request.getpeername() == self.client_address

    async with serving(Handler) as server:
        await ask(server.server_address)
        (handler,) = seen
        assert handler.server is server
    assert server.statistics.handlers_failed == 0


# StreamRequestHandler


@pytest.mark.parametrize("disabled", [None, True, False])
async def test_nagles_algorithm_is_disabled_unless_the_handler_says_not(
    disabled: bool | None,
) -> None:
    class Handler(StreamRequestHandler):
        if disabled is not None:
            disable_nagle_algorithm = disabled

        async def handle(self) -> None:
            value = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await self.wfile.write(str(bool(value)).encode())

    async with serving(Handler) as server:
        assert await ask(server.server_address) == str(disabled is not False).encode()


async def test_unix_sockets_need_no_nagle(tmp_path: Path) -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(await self.rfile.readline())

    async with UnixStreamServer(str(tmp_path / "s"), Handler) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"line\n") == b"line\n"


async def test_timeout_of_the_class_ends_a_silent_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(StreamRequestHandler):
        timeout = 0.01

        async def handle(self) -> None:
            assert self.connection.gettimeout() == 0.01
            await self.wfile.write(b"before ")
            await self.rfile.readline()

    caplog.set_level(logging.INFO, "aiosocketserver")
    async with serving(Handler) as server, client_of(server.server_address) as client:
        assert await client.receive_all() == b"before "
    (record,) = caplog.records
    assert record.exc_info is None
    assert "timed out" in record.getMessage()


async def test_no_timeout_is_set_by_default() -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(repr(self.connection.gettimeout()).encode())

    async with serving(Handler) as server:
        assert await ask(server.server_address) == b"None"


@pytest.mark.parametrize(("size", "received"), [(-1, 10), (0, 1), (1, 1), (5, 5), (100, 10)])
async def test_rbufsize_is_the_most_that_is_received_at_once(size: int, received: int) -> None:
    class Handler(StreamRequestHandler):
        rbufsize = size

        async def handle(self) -> None:
            # By then all ten are there.
            await self.connection.recv(10, socket.MSG_PEEK | socket.MSG_WAITALL)
            await self.wfile.write(b"%d" % len(await self.rfile.read1()))

    async with serving(Handler) as server:
        assert await ask(server.server_address, b"x" * 10) == b"%d" % received


@pytest.mark.parametrize("size", [0, -1, 65536])
async def test_wbufsize_never_keeps_bytes_from_leaving(size: int) -> None:
    proceed = asyncio.Event()

    class Handler(StreamRequestHandler):
        wbufsize = size

        async def handle(self) -> None:
            await self.wfile.write(b"early")
            await proceed.wait()

    async with serving(Handler) as server, client_of(server.server_address) as client:
        assert await client.receive(5) == b"early"
        proceed.set()
        assert await client.receive_all() == b""


async def test_stream_handler_on_a_datagram_server_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            pass

    async with UDPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"datagram", server.server_address)
        async with asyncio.timeout(10):
            while not caplog.records:  # noqa: ASYNC110
                await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.exc_info
    assert "is a StreamRequestHandler and needs a stream server, not UDPServer" in str(
        record.exc_info[1]
    )


# DatagramRequestHandler


class Answers(DatagramRequestHandler):
    async def handle(self) -> None:
        assert self.rfile.getvalue() == self.packet == self.request[0]
        assert self.socket is self.request[1]
        if self.packet == b"fail":
            self.wfile.write(b"failing")
            raise ZeroDivisionError
        first = self.rfile.readline()
        self.wfile.write(first.upper())
        self.wfile.write(self.rfile.read()[::-1])


async def asked(client: socket.socket, address: Any, question: bytes) -> bytes:
    client.setblocking(False)
    client.sendto(question, address)
    return await asyncio.get_running_loop().sock_recv(client, 1000)


async def test_datagram_is_a_file_and_the_answer_is_one_datagram(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with UDPServer(("127.0.0.1", 0), Answers) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            assert await asked(client, server.server_address, b"one\ntwo") == b"ONE\nowt"
            # Empty or not, as in socketserver, and also when handle() has failed.
            assert await asked(client, server.server_address, b"") == b""
            assert not caplog.records
            assert await asked(client, server.server_address, b"fail") == b"failing"
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_datagram_files_work_on_unix_sockets(tmp_path: Path) -> None:
    async with UnixDatagramServer(str(tmp_path / "s"), Answers) as server:
        await server.start_serving()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(str(tmp_path / "c"))
            assert await asked(client, server.server_address, b"one\ntwo") == b"ONE\nowt"


async def test_a_datagram_handler_on_a_stream_server_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(DatagramRequestHandler):
        async def handle(self) -> None:
            pass

    async with TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        reader, writer = await asyncio.open_connection(*server.server_address)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    (record,) = caplog.records
    assert record.exc_info
    assert "needs a datagram server, not TCPServer" in str(record.exc_info[1])


def test_a_server_that_does_not_await_handlers_is_told() -> None:
    class Handler(BaseRequestHandler):
        async def handle(self) -> None:
            raise AssertionError

    with (
        socketserver.TCPServer(("127.0.0.1", 0), lambda *_: None) as server,  # type: ignore[arg-type]
        pytest.raises(TypeError, match=r"socketserver\.TCPServer does not await: use"),
    ):
        Handler(None, None, server)  # type: ignore[arg-type, unused-awaitable]


class Attributes(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(" ".join(sorted(vars(self))).encode())


class FinishedByOverride(TCPServer):
    async def finish_request(self, request: Any, client_address: Any) -> None:
        handler = self.RequestHandlerClass(request, client_address, self)
        await handler
        await handler


@pytest.mark.parametrize(("server_class", "times"), [(TCPServer, 1), (FinishedByOverride, 2)])
async def test_a_handler_finds_its_own_attributes_only_however_often_it_is_awaited(
    server_class: type[TCPServer], times: int
) -> None:
    async with server_class(("127.0.0.1", 0), Attributes) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"client_address request server" * times

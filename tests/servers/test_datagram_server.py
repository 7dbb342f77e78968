"""Datagram servers of each family: answers, vanished and nameless clients, hooks, life cycle."""

import asyncio
import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.sockets.datagram import DatagramSocket
from tests.support import until, wait_until_readable

MakeServer = Callable[..., aiosocketserver.UDPServer]


@pytest.fixture(params=["ipv4", "ipv6", "unix", "abstract"])
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> MakeServer:
    def make(handler: type[aiosocketserver.BaseRequestHandler], **options: Any) -> Any:
        address: Any = {
            "ipv4": ("127.0.0.1", 0),
            "ipv6": ("::1", 0),
            "unix": str(tmp_path / "s"),
            "abstract": f"\0aiosocketserver-{os.getpid()}",
        }[request.param]
        if isinstance(address, str):
            return aiosocketserver.UnixDatagramServer(address, handler, **options)
        return aiosocketserver.UDPServer(address, handler, **options)

    return make


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[aiosocketserver.UDPServer], socket.socket]]:
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def client(server: aiosocketserver.UDPServer) -> socket.socket:
            sock = stack.enter_context(socket.socket(server.address_family, socket.SOCK_DGRAM))
            if sock.family == socket.AF_UNIX:
                sock.bind(str(tmp_path / f"c{next(numbers)}"))
            sock.connect(server.server_address)
            sock.setblocking(False)
            return sock

        yield client


@pytest.fixture
def named_socket() -> Iterator[Callable[[str], socket.socket]]:
    with contextlib.ExitStack() as stack:

        def make(path: str) -> socket.socket:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sock.bind(path)
            sock.setblocking(False)
            return sock

        yield make


Connect = Callable[[aiosocketserver.UDPServer], socket.socket]


async def receive(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 65536)


class Upper(aiosocketserver.BaseRequestHandler):
    request: tuple[bytes, DatagramSocket]

    async def handle(self) -> None:
        data, sock = self.request
        assert await sock.sendto(data.upper(), self.client_address) == len(data)


# --- answers ---


async def test_handler_answers_through_the_awaited_socket(
    make_server: MakeServer, connect: Connect
) -> None:
    async with make_server(Upper) as server:
        await server.start_serving()
        client = connect(server)
        client.send(b"hello")
        assert await receive(client) == b"HELLO"
        client.send(b"")
        assert await receive(client) == b""


async def test_datagram_request_handler_answers_with_what_was_written(
    make_server: MakeServer, connect: Connect
) -> None:
    class Reverse(aiosocketserver.DatagramRequestHandler):
        async def handle(self) -> None:
            assert self.packet
            for line in self.rfile:
                self.wfile.write(line.strip()[::-1] + b"\n")

    async with make_server(Reverse) as server:
        await server.start_serving()
        client = connect(server)
        client.send(b"one\ntwo\n")
        assert await receive(client) == b"eno\nowt\n"


async def test_many_handlers_answer_at_once(make_server: MakeServer, connect: Connect) -> None:
    begun = 0
    all_begun = asyncio.Event()

    class Together(Upper):
        async def handle(self) -> None:
            nonlocal begun
            begun += 1
            if begun == 8:
                all_begun.set()
            await all_begun.wait()
            await super().handle()

    async with make_server(Together) as server:
        await server.start_serving()
        clients = [connect(server) for _ in range(8)]
        for number, client in enumerate(clients):
            client.send(b"a%d" % number)
        for number, client in enumerate(clients):
            assert await receive(client) == b"A%d" % number


async def test_sendto_takes_flags_between_data_and_address(
    make_server: MakeServer, connect: Connect
) -> None:
    class WithFlags(Upper):
        async def handle(self) -> None:
            data, sock = self.request
            await sock.sendto(data, socket.MSG_DONTWAIT, self.client_address)

    async with make_server(WithFlags) as server:
        await server.start_serving()
        client = connect(server)
        client.send(b"x")
        assert await receive(client) == b"x"


async def test_datagram_is_cut_at_max_packet_size(
    make_server: MakeServer, connect: Connect
) -> None:
    async with make_server(Upper, max_packet_size=4) as server:
        await server.start_serving()
        client = connect(server)
        client.send(b"abcdefgh")
        assert await receive(client) == b"ABCD"


async def test_handlers_socket_tells_and_sets_what_a_socket_does(
    make_server: MakeServer, connect: Connect
) -> None:
    told: list[Any] = []

    class Tell(Upper):
        async def handle(self) -> None:
            sock = self.request[1]
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            told.extend([sock.fileno(), sock.getsockname(), sock.family, repr(sock)])
            told.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST))
            told.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 4))
            await super().handle()

    async with make_server(Tell) as server:
        await server.start_serving()
        client = connect(server)
        client.send(b"x")
        await receive(client)
        assert told[:3] == [server.fileno(), server.server_address, server.address_family]
        assert "DatagramSocket" in told[3]
        assert told[4:] == [1, b"\1\0\0\0"]


# --- clients that cannot be answered ---


async def test_too_long_answer_is_the_handlers_failure(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    class TooLong(Upper):
        async def handle(self) -> None:
            await self.request[1].sendto(bytes(100_000), self.client_address)

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), TooLong) as server:
        await server.start_serving()
        connect(server).send(b"x")
        wait_until_readable(server)
    assert server.statistics.handlers_failed == 1
    assert server.statistics.clients_vanished == 0
    assert caplog.records[0].exc_info is not None


async def test_vanished_client_leaves_no_traceback(
    make_server: MakeServer,
    connect: Connect,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    async with make_server(Upper) as server:
        gone = connect(server)
        address = gone.getsockname()
        gone.send(b"x")
        gone.close()
        if server.address_family == socket.AF_UNIX:
            # One whose path is gone as well.
            other = connect(server)
            other.send(b"x")
            os.unlink(other.getsockname())
            other.close()
        await server.start_serving()
        client = connect(server)
        client.send(b"still there")
        assert await receive(client) == b"STILL THERE"
    assert server.statistics.handlers_failed == 0
    assert all(record.exc_info is None for record in caplog.records)
    if server.address_family == socket.AF_UNIX:
        assert server.statistics.clients_vanished == 2
        assert str(address) in caplog.text


async def test_a_forged_datagram_from_port_0_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Forged(aiosocketserver.UDPServer):
        def get_request(self) -> tuple[Any, Any]:
            # Only root can send one.
            request, (host, _) = super().get_request()
            return request, (host, 0)

    class Echo(aiosocketserver.DatagramRequestHandler):
        async def handle(self) -> None:
            self.wfile.write(self.rfile.read())

    async with Forged(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", server.server_address)
            await until(lambda: server.statistics.finished == 1)
    assert (server.statistics.clients_vanished, server.statistics.handlers_failed) == (1, 0)
    assert "Traceback" not in caplog.text


async def test_unnamed_unix_client_is_served_but_cannot_be_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    errors: list[OSError] = []

    class Try(Upper):
        async def handle(self) -> None:
            try:
                await super().handle()
            except OSError as error:
                errors.append(error)
                raise

    server = aiosocketserver.UnixDatagramServer(str(tmp_path / "s"), Try)
    async with server:
        await server.start_serving()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", server.server_address)
    assert "not bound to a name" in str(errors[0])
    assert server.statistics.clients_vanished == 1
    assert all(record.exc_info is None for record in caplog.records)


async def test_full_unix_receiver_holds_up_only_its_own_answers(
    tmp_path: Path, connect: Connect, named_socket: Callable[[str], socket.socket]
) -> None:
    class Many(Upper):
        async def handle(self) -> None:
            data, sock = self.request
            for number in range(50 if data == b"many" else 1):
                await sock.sendto(b"%d" % number, self.client_address)

    loop = asyncio.get_running_loop()
    tried: list[float] = []
    tried_often = asyncio.Event()

    class Counting(socket.socket):
        def sendto(self, *args: Any) -> int:
            try:
                return super().sendto(*args)
            except BlockingIOError:
                tried.append(loop.time())
                if len(tried) == 8:
                    tried_often.set()
                raise

    server = aiosocketserver.UnixDatagramServer(str(tmp_path / "s"), Many)
    server.socket = Counting(fileno=server.socket.detach())
    async with server:
        await server.start_serving()
        quick = connect(server)
        slow = named_socket(str(tmp_path / "slow"))
        # Not connected: a connected one may fill all of the server's send buffer.
        slow.sendto(b"many", server.server_address)
        for _ in range(20):
            quick.send(b"x")
            assert await receive(quick) == b"0"
        await tried_often.wait()
        # No busy loop: it tries again after 1, 2, 4, ... milliseconds.
        assert tried[7] - tried[0] > 0.05
        assert [await receive(slow) for _ in range(50)] == [b"%d" % n for n in range(50)]


class _FullSocket(socket.socket):
    """A socket whose kernel buffer is full a number of times."""

    full = 0

    def sendto(self, *args: Any) -> int:
        if self.full:
            self.full -= 1
            raise BlockingIOError
        return super().sendto(*args)


async def test_any_number_of_tasks_wait_until_there_is_room(connect: Connect) -> None:
    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Upper) as server:
        client = connect(server)
        with _FullSocket(socket.AF_INET, socket.SOCK_DGRAM) as full:
            full.full = 30
            sock = DatagramSocket(full, asyncio.get_running_loop())
            address = client.getsockname()
            tasks = [asyncio.create_task(sock.sendto(b"x", address)) for _ in range(20)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            sizes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(sizes[0], asyncio.CancelledError)
    assert sizes[1:] == [1] * 19


async def test_sendto_that_waits_fails_when_the_server_is_closed(connect: Connect) -> None:
    waiting = asyncio.Event()
    failed: asyncio.Queue[OSError] = asyncio.Queue()

    class Full(_FullSocket):
        def sendto(self, *args: Any) -> int:
            if self.fileno() >= 0:
                waiting.set()
                raise BlockingIOError
            return super().sendto(*args)

    class Answer(Upper):
        async def handle(self) -> None:
            try:
                await super().handle()
            except OSError as error:
                failed.put_nowait(error)

    server = aiosocketserver.UDPServer(("127.0.0.1", 0), Answer)
    server.socket = Full(fileno=server.socket.detach())
    async with server:
        await server.start_serving()
        connect(server).send(b"x")
        await waiting.wait()
        server.server_close()
        assert (await failed.get()).errno is not None


# --- hooks and the life cycle ---


async def test_hooks_are_called_in_socketservers_order(
    make_server: MakeServer, connect: Connect
) -> None:
    called: list[str] = []

    class Traced(Upper):
        async def setup(self) -> None:
            called.append("setup")

        async def handle(self) -> None:
            called.append("handle")
            await super().handle()

        async def finish(self) -> None:
            called.append("finish")

    server = make_server(Traced)
    for name in (
        "get_request",
        "verify_request",
        "process_request",
        "finish_request",
        "shutdown_request",
        "close_request",
    ):
        _trace(server, name, called)

    async with server:
        client = connect(server)
        client.send(b"x")
        await server.handle_request()
        assert await receive(client) == b"X"
    assert called == [
        "get_request",
        "verify_request",
        "process_request",
        "finish_request",
        "setup",
        "handle",
        "finish",
        "shutdown_request",
        "close_request",
    ]


def _trace(server: aiosocketserver.UDPServer, name: str, called: list[str]) -> None:
    original = getattr(server, name)

    def hook(*args: Any) -> Any:
        called.append(name)
        return original(*args)

    # An instance attribute overrides the hook as a subclass would.
    setattr(server, name, hook)


async def test_refused_datagram_is_not_served(make_server: MakeServer, connect: Connect) -> None:
    async def verify(request: Any, client_address: Any) -> bool:
        await asyncio.sleep(0)
        return bool(request[0] != b"bad")

    async with make_server(Upper) as server:
        server.verify_request = verify  # type: ignore[method-assign]
        await server.start_serving()
        client = connect(server)
        client.send(b"bad")
        client.send(b"good")
        assert await receive(client) == b"GOOD"


async def test_overridden_get_request_may_return_anything(connect: Connect) -> None:
    served: asyncio.Queue[Any] = asyncio.Queue()

    class Parsed(aiosocketserver.UDPServer):
        def get_request(self) -> tuple[Any, Any]:
            (data, sock), address = super().get_request()
            return (data.decode() if data != b"three" else (data, sock, 3)), address

    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            served.put_nowait(self.request)
            raise ValueError

    async with Parsed(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        client = connect(server)
        client.send(b"text")
        assert await served.get() == "text"
        client.send(b"three")
        assert await served.get() == (b"three", server.socket, 3)
    assert server.statistics.handlers_failed == 2


async def test_handle_request_serves_one_datagram(
    make_server: MakeServer, connect: Connect
) -> None:
    async with make_server(Upper) as server:
        client = connect(server)
        client.send(b"one")
        client.send(b"two")
        await server.handle_request()
        assert await receive(client) == b"ONE"
        with pytest.raises(BlockingIOError):
            client.recv(10)
        await server.handle_request()
        assert await receive(client) == b"TWO"


async def test_handle_request_gives_up_after_its_timeout(make_server: MakeServer) -> None:
    timeouts = []
    async with make_server(Upper, timeout=0.01) as server:
        server.handle_timeout = lambda: timeouts.append(1)  # type: ignore[method-assign]
        await server.handle_request()
    assert timeouts == [1]


async def test_server_serves_again_after_shutdown(
    make_server: MakeServer, connect: Connect
) -> None:
    async with make_server(Upper) as server:
        client = connect(server)
        server.socket.settimeout(7.0)
        for _ in range(2):
            await server.start_serving()
            client.send(b"x")
            assert await receive(client) == b"X"
            await server.shutdown()
            assert server.socket.gettimeout() == 7.0

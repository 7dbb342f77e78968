"""The time-outs of a server: which client is cut, which is not, and who is told."""

import asyncio
import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar, cast

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    ForkingTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
    ThreadingTCPServer,
    ThreadingUnixStreamServer,
    TimedOut,
    UDPServer,
)
from aiosocketserver.servers.stream import TCPServer as AnyTCPServer
from tests.support import Peer, ask, client_of, fill, until, until_later

LOCALHOST = ("127.0.0.1", 0)


class Told:
    """What `handle_timed_out` and `handle_error` were called with."""

    def __init__(self, server: AnyTCPServer) -> None:
        self.timed_out: list[tuple[Any, str]] = []
        self.errors: list[BaseException | None] = []
        server.handle_timed_out = self._on_timed_out  # type: ignore[method-assign]
        server.handle_error = lambda *_: self.errors.append(sys_exception())  # type: ignore[method-assign]

    def _on_timed_out(self, request: Any, client_address: Any, option: str) -> None:
        self.timed_out.append((client_address, option))


def sys_exception() -> BaseException | None:
    import sys

    return sys.exception()


class Echo(StreamRequestHandler):
    """Echoes lines, and remembers what it was interrupted by."""

    raised: ClassVar[list[BaseException]] = []

    async def handle(self) -> None:
        try:
            async for line in self.rfile:
                await self.wfile.write(line)
        except BaseException as error:
            self.raised.append(error)
            raise


@pytest.fixture(autouse=True)
def _forget() -> None:
    Echo.raised.clear()


# --- read_timeout ---


@pytest.mark.parametrize("option", ["read_timeout", "idle_timeout"])
async def test_a_client_that_is_too_slow_is_cut_and_told_of(option: str) -> None:
    async with TCPServer(LOCALHOST, Echo, **{option: 0.1}) as server:  # type: ignore[arg-type]
        told = Told(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"one\ntw")
            assert await client.receive_all() == b"one\n"
            address = client.sock.getsockname()
        (error,) = Echo.raised
        assert isinstance(error, TimedOut)
        assert error.option == option
        assert str(error) == f"timed out: the server's {option} has passed"
        assert told.timed_out == [(address, option)]
        assert told.errors == []
        assert server.statistics.timed_out == {option: 1}
        assert server.statistics.clients_vanished == 0


async def test_a_silent_client_is_no_slow_one() -> None:
    async with TCPServer(LOCALHOST, Echo, read_timeout=0.05) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            for _ in range(3):
                await client.send(b"one\n")
                assert await client.receive(4) == b"one\n"
                await asyncio.sleep(0.1)
            await client.send(b"two\n")
            client.finish()
            assert await client.receive_all() == b"two\n"
        assert not server.statistics.timed_out


async def test_bytes_that_trickle_do_not_put_the_end_of_a_message_off() -> None:
    async with TCPServer(LOCALHOST, Echo, read_timeout=0.3) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            begun = time.monotonic()

            async def trickle() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        await client.send(b"x")
                        await asyncio.sleep(0.02)

            trickling = asyncio.create_task(trickle())
            assert await client.receive_all() == b""
            assert 0.25 < time.monotonic() - begun < 2
            trickling.cancel()
        assert server.statistics.timed_out == {"read_timeout": 1}


@pytest.mark.parametrize(
    "read",
    [
        lambda rfile: rfile.readline(),
        lambda rfile: rfile.readuntil(b"end"),
        lambda rfile: rfile.readexactly(10),
        lambda rfile: rfile.read(10),
        lambda rfile: rfile.read(),
        lambda rfile: rfile.readinto(bytearray(10)),
    ],
    ids=["readline", "readuntil", "readexactly", "read", "read to the end", "readinto"],
)
async def test_every_way_to_read_a_message_has_its_time(read: Callable[[Any], Any]) -> None:
    class Reader(StreamRequestHandler):
        async def handle(self) -> None:
            with pytest.raises(TimedOut, match="read_timeout"):
                await read(self.rfile)
            # What had arrived is still there.
            assert await self.rfile.read1() == b"part"
            await self.wfile.write(b"sorry")

    async with TCPServer(LOCALHOST, Reader, read_timeout=0.05) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"part")
            assert await client.receive_all() == b"sorry"
        assert server.statistics.timed_out == {"read_timeout": 1}
        assert server.statistics.handlers_failed == 0


async def test_a_handler_that_goes_on_gets_the_error_again() -> None:
    errors: list[str] = []

    class Stubborn(StreamRequestHandler):
        async def handle(self) -> None:
            for _ in range(3):
                try:
                    await self.rfile.readline()
                except TimedOut as error:
                    errors.append(error.option)

    async with TCPServer(LOCALHOST, Stubborn, idle_timeout=0.05) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
        assert errors == ["idle_timeout"] * 3
        assert server.statistics.timed_out == {"idle_timeout": 1}


# --- idle_timeout ---


async def test_a_connection_on_which_only_the_server_sends_is_not_idle() -> None:
    class Ticker(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            async def tick() -> None:
                for _ in range(10):
                    await asyncio.sleep(0.03)
                    await self.request.sendall(b"tick")

            async with asyncio.TaskGroup() as group:
                group.create_task(tick())
                assert await self.request.recv(10) == b"bye"

    async with TCPServer(LOCALHOST, Ticker, idle_timeout=0.15) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(40) == b"tick" * 10
            await client.send(b"bye")
            assert await client.receive_all() == b""
        assert not server.statistics.timed_out


async def test_a_handler_that_is_busy_with_something_else_is_not_idle() -> None:
    class Slow(StreamRequestHandler):
        async def handle(self) -> None:
            line = await self.rfile.readline()
            await asyncio.sleep(0.3)
            await self.wfile.write(line)

    async with TCPServer(LOCALHOST, Slow, idle_timeout=0.1, read_timeout=0.1) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"x\n") == b"x\n"
        assert not server.statistics.timed_out


async def test_a_loop_that_was_blocked_cuts_nobody() -> None:
    async with TCPServer(LOCALHOST, Echo, idle_timeout=0.2, read_timeout=0.2) as server:
        await server.start_serving()
        async with (
            client_of(server.server_address) as silent,
            client_of(server.server_address) as client,
        ):
            for peer in (silent, client):
                await peer.send(b"x\npart")
                assert await peer.receive(2) == b"x\n"
            client.sock.send(b"ial\n")
            # More than both, on purpose: a handler that computes does that.
            time.sleep(0.8)
            assert await client.receive(8) == b"partial\n"
            await silent.send(b"ial\n")
            assert await silent.receive(8) == b"partial\n"
        assert not server.statistics.timed_out


async def test_input_that_is_there_counts_although_the_timer_comes_first() -> None:
    """uvloop looks at timers before it looks at sockets."""

    class Blocks(StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                if line == b"block\n":
                    # Past the other one's time, but not by so much that it is put off.
                    time.sleep(0.4)
                await self.wfile.write(line)

    async with TCPServer(LOCALHOST, Blocks, idle_timeout=0.3) as server:
        await server.start_serving()
        async with (
            client_of(server.server_address) as client,
            client_of(server.server_address) as blocker,
        ):
            for peer in (blocker, client):
                await peer.send(b"x\n")
                assert await peer.receive(2) == b"x\n"
            # While the loop is blocked in a callback of the other socket.
            timer = threading.Timer(0.2, client.sock.send, [b"y\n"])
            timer.start()
            await blocker.send(b"block\n")
            assert await client.receive(2) == b"y\n"
            timer.join()
        assert not server.statistics.timed_out


async def test_idle_connections_wake_nobody_up() -> None:
    loop = asyncio.get_running_loop()
    async with TCPServer(LOCALHOST, Echo, read_timeout=60, write_timeout=60) as server:
        await server.start_serving()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                client = await stack.enter_async_context(client_of(server.server_address))
                await client.send(b"x\n")
                assert await client.receive(2) == b"x\n"
            if hasattr(loop, "_scheduled"):
                scheduled = cast("list[asyncio.TimerHandle]", loop._scheduled)
                assert not [t for t in scheduled if "WaitTimeout" in repr(t)]
            for request in server._requests:
                assert request.request._timers._stall is None


# --- write_timeout ---


async def test_a_client_that_does_not_read_is_cut() -> None:
    class Sender(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            with pytest.raises(TimedOut, match="write_timeout"):
                await self.request.sendall(bytes(64 * 1024 * 1024))
            with pytest.raises(TimedOut, match="write_timeout"):
                await self.request.sendall(b"more")

    async with TCPServer(LOCALHOST, Sender, write_timeout=0.1) as server:
        told = Told(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.statistics.timed_out)
            await until(lambda: not server.requests())
            # No more than the kernel had comes, and no orderly end.
            with contextlib.suppress(ConnectionResetError):
                assert len(await client.receive_all()) < 64 * 1024 * 1024
        assert server.statistics.timed_out == {"write_timeout": 1}
        assert told.errors == []


async def test_a_client_that_reads_slowly_is_not_cut() -> None:
    size = 1024 * 1024

    class Sender(StreamRequestHandler):
        async def handle(self) -> None:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
            await self.wfile.write(bytes(size))

    async with TCPServer(LOCALHOST, Sender, write_timeout=0.25) as server:
        await server.start_serving()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, server.server_address)
            client = Peer(sock)
            received = 0
            begun = time.monotonic()
            while block := await client.receive(64 * 1024):
                received += len(block)
                await asyncio.sleep(0.05)
            assert received == size
            assert time.monotonic() - begun > 0.5
        assert not server.statistics.timed_out


async def test_the_hook_of_a_stalled_write_sees_that_the_request_writes() -> None:
    seen: list[str | None] = []
    raised: list[Exception] = []

    class Floods(StreamRequestHandler):
        async def handle(self) -> None:
            try:
                while True:
                    await self.wfile.write(b"x" * 100_000)
            except TimedOut as error:
                raised.append(error)

    async with TCPServer(LOCALHOST, Floods, write_timeout=0.1) as server:

        def on_timed_out(request: Any, client_address: Any, option: str) -> None:
            seen.extend(shown.waits_for for shown in server.requests())

        server.handle_timed_out = on_timed_out  # type: ignore[method-assign]
        await server.start_serving()
        async with client_of(server.server_address):
            await until_later(lambda: raised)
    assert seen == ["writing"]
    assert str(raised[0]) == str(TimedOut("write_timeout"))


async def test_writes_that_nobody_waits_for_have_their_time_too() -> None:
    class Sender(StreamRequestHandler):
        async def handle(self) -> None:
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(20):
                fill(self.request._sock)
                await asyncio.sleep(0.01)
            await self.wfile.write(b"pending" * 8000)
            with pytest.raises(TimedOut, match="write_timeout"):
                await self.rfile.readline()

    async with TCPServer(LOCALHOST, Sender, write_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.statistics.timed_out)
            await until(lambda: not server.requests())
            with contextlib.suppress(ConnectionResetError):
                assert b"pending" * 8000 not in await client.receive_all()
        assert server.statistics.timed_out == {"write_timeout": 1}
        assert server.statistics.handlers_failed == 0


async def test_a_full_flush_that_waits_is_told_too() -> None:
    class Sender(StreamRequestHandler):
        async def handle(self) -> None:
            fill(self.request._sock)
            with pytest.raises(TimedOut, match="write_timeout"):
                await self.wfile.write(bytes(1024 * 1024))

    async with TCPServer(LOCALHOST, Sender, write_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await until(lambda: server.statistics.timed_out)
            await until(lambda: not server.requests())


# --- request_timeout ---


async def test_a_request_has_its_time_where_it_waits_for_its_client() -> None:
    async with TCPServer(LOCALHOST, Echo, request_timeout=0.2) as server:
        told = Told(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            for _ in range(2):
                await client.send(b"x\n")
                assert await client.receive(2) == b"x\n"
            assert await client.receive_all() == b""
        (error,) = Echo.raised
        assert isinstance(error, TimedOut)
        assert [option for _, option in told.timed_out] == ["request_timeout"]
        assert told.errors == []
        assert server.statistics.timed_out == {"request_timeout": 1}


async def test_no_wait_begins_when_the_time_of_the_request_is_over() -> None:
    raised: list[Exception] = []

    class Again(StreamRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            for _ in range(3):
                try:
                    await self.request.recv(1)
                except TimedOut as error:
                    raised.append(error)

    async with TCPServer(LOCALHOST, Again, request_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
    assert [str(error) for error in raised] == [str(TimedOut("request_timeout"))] * 3
    # Each with a traceback of its own.
    assert len(set(raised)) == 3


async def test_a_handler_that_tries_again_and_again_does_not_hold_the_loop() -> None:
    had_a_turn = asyncio.Event()
    counts: list[int] = []

    class Stubborn(StreamRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            with pytest.raises(TimedOut):
                await self.request.recv(1)
            asyncio.get_running_loop().call_soon(had_a_turn.set)
            tries = 0
            while tries < 1000 and not had_a_turn.is_set():
                tries += 1
                with pytest.raises(TimedOut):
                    await self.request.recv(1)
            counts.append(tries)

    async with TCPServer(LOCALHOST, Stubborn, request_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
    # 128 calls are one turn.
    assert 0 < counts[0] < 200


async def test_a_request_has_its_time_where_it_waits_for_something_else() -> None:
    cancelled = asyncio.Event()

    class Hangs(StreamRequestHandler):
        async def handle(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

    async with TCPServer(LOCALHOST, Hangs, request_timeout=0.1) as server:
        told = Told(server)
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert cancelled.is_set()
        assert told.errors == []
        assert server.statistics.timed_out == {"request_timeout": 1}


async def test_a_request_that_ends_in_time_leaves_no_timer() -> None:
    async with TCPServer(LOCALHOST, Echo, request_timeout=0.1) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"x\n") == b"x\n"
        assert server._requests.times is not None
        await until(lambda: not server.requests())
        assert not server._requests.times._deadlines
        await asyncio.sleep(0.2)
        assert not server.statistics.timed_out


async def test_a_handler_that_resists_loses_its_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    class Resists(StreamRequestHandler):
        async def handle(self) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    async with TCPServer(LOCALHOST, Resists, request_timeout=0.1) as server:
        await server.start_serving()
        with pytest.raises(ConnectionResetError):
            await ask(server.server_address)
        await ended.wait()
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "goes on after the server's request_timeout" in record.getMessage()


async def test_a_connection_that_is_kept_beyond_its_handler_is_told_of() -> None:
    kept: list[Any] = []
    told: list[tuple[Any, str]] = []

    class Keeping(TCPServer):
        def shutdown_request(self, request: Any) -> None:
            kept.append(request)

        def handle_timed_out(self, request: Any, client_address: Any, option: str) -> None:
            told.append((request, option))

    class Quick(StreamRequestHandler):
        async def handle(self) -> None:
            pass

    async with Keeping(LOCALHOST, Quick, idle_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await until(lambda: server.statistics.finished)
            (connection,) = kept
            with pytest.raises(TimedOut):
                await connection.recv(1)
            assert told == [(connection, "idle_timeout")]
            connection.close()


async def test_a_datagram_has_its_time_too() -> None:
    class Hangs(BaseRequestHandler):
        async def handle(self) -> None:
            data, sock = self.request
            if data == b"hang":
                await asyncio.Event().wait()
            await sock.sendto(data, self.client_address)

    async with UDPServer(LOCALHOST, Hangs, request_timeout=0.1) as server:
        await server.start_serving()
        async with client_of_datagrams(server.server_address) as client:
            await client.send(b"hang")
            await until(lambda: server.statistics.timed_out)
            await client.send(b"echo")
            assert await client.receive(4) == b"echo"
        assert server.statistics.timed_out == {"request_timeout": 1}
        assert server.statistics.handlers_failed == 0


@contextlib.asynccontextmanager
async def client_of_datagrams(address: Any) -> AsyncIterator[Peer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        yield Peer(sock)


# --- legacy handlers ---


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class LegacySender(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while True:
            self.request.sendall(bytes(1024 * 1024))


async def test_an_idle_client_of_a_thread_is_cut() -> None:
    async with ThreadingTCPServer(LOCALHOST, LegacyEcho, idle_timeout=0.1) as server:
        told = Told(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"x\n")
            assert await client.receive_all() == b"x\n"
        assert server.statistics.timed_out == {"idle_timeout": 1}
        assert told.errors == []


@pytest.mark.parametrize("unix", [False, True])
async def test_a_client_of_a_thread_that_does_not_read_is_cut(unix: bool, tmp_path: Any) -> None:
    make: Any = ThreadingUnixStreamServer if unix else ThreadingTCPServer
    address = str(tmp_path / "socket") if unix else LOCALHOST
    async with make(address, LegacySender, write_timeout=0.3) as server:
        told = Told(server)
        await server.start_serving()
        async with client_of(server.server_address):
            await until_later(lambda: server.statistics.timed_out)
        assert server.statistics.timed_out == {"write_timeout": 1}
        assert told.errors == []


async def test_a_request_of_a_thread_has_its_time() -> None:
    async with ThreadingTCPServer(LOCALHOST, LegacyEcho, request_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:  # it says nothing
            assert await client.receive_all() == b""
        assert server.statistics.timed_out == {"request_timeout": 1}


async def test_a_request_of_a_child_has_its_time() -> None:
    async with ForkingTCPServer(LOCALHOST, LegacyEcho, request_timeout=0.3) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:  # it says nothing
            assert await client.receive_all() == b""
        await until_later(lambda: not server.requests())
        assert server.statistics.timed_out == {"request_timeout": 1}


async def test_a_time_out_of_the_handlers_own_socket_is_its_failure() -> None:
    """Its database does not answer in time: not the client's doing."""
    ours, theirs = socket.socketpair()

    class Asks(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            ours.settimeout(0.05)
            ours.recv(1)

    with ours, theirs:
        async with ThreadingTCPServer(LOCALHOST, Asks) as server:
            told = Told(server)
            await server.start_serving()
            assert await ask(server.server_address) == b""
            assert [type(error) for error in told.errors] == [TimeoutError]
            assert not server.statistics.timed_out
            assert server.statistics.handlers_failed == 1


# --- TCP keep-alive ---


async def test_connections_are_looked_after_by_the_kernel() -> None:
    options: list[int] = []

    class Asks(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            sock = self.request
            options.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))

    with socket.socket() as sock:
        default = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    for seconds, expected in ((30, [1, 30]), (None, [0, default])):
        options.clear()
        async with TCPServer(LOCALHOST, Asks, tcp_keep_alive=seconds) as server:
            await server.start_serving()
            await ask(server.server_address)
            await server.shutdown()
            one = asyncio.create_task(server.handle_request())
            await ask(server.server_address)
            await one
        assert options == expected * 2


# --- options ---


@pytest.mark.parametrize(
    "option", ["read_timeout", "idle_timeout", "write_timeout", "request_timeout"]
)
def test_a_time_out_that_makes_no_sense_is_refused(option: str) -> None:
    for value in (0, -1, float("inf"), "60"):
        with pytest.raises(ValueError, match=rf"{option} must be a number of seconds above 0"):
            TCPServer(LOCALHOST, Echo, **{option: value})  # type: ignore[arg-type]


def test_keep_alive_is_whole_seconds() -> None:
    with pytest.raises(ValueError, match="tcp_keep_alive must be a whole number of seconds, 1"):
        TCPServer(LOCALHOST, Echo, tcp_keep_alive=cast(int, 0.5))

"""How the datagrams of one socket are read, queued, dropped and drained."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.servers.dispatcher import DATAGRAM_BATCH
from aiosocketserver.sockets.datagram import kernel_drops
from tests.datagram_support import CountingServer, Gated, Handler, ask
from tests.support import until


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        yield sock


@pytest.fixture
def gated() -> type[Gated]:
    class Fresh(Gated):
        begun = asyncio.Queue()
        gate = asyncio.Event()

    return Fresh


# --- concurrency, the queue and what is dropped ---


async def test_handlers_run_at_once_up_to_max_concurrency(
    client: socket.socket, gated: type[Gated]
) -> None:
    async with CountingServer(("127.0.0.1", 0), gated, max_concurrency=3) as server:
        await server.start_serving()
        server.wanted = 5
        for number in range(5):
            client.sendto(b"%d" % number, server.server_address)
        await server.all_read.wait()
        begun = [await gated.begun.get() for _ in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert gated.begun.empty()
        gated.gate.set()
        begun += [await gated.begun.get() for _ in range(2)]
        assert begun == [b"0", b"1", b"2", b"3", b"4"]
    assert server.statistics.datagrams_dropped == 0


async def test_newest_datagram_is_dropped_and_counted_when_queue_is_full(
    client: socket.socket, gated: type[Gated]
) -> None:
    options: dict[str, Any] = {"max_concurrency": 2, "max_queue": 3}
    async with CountingServer(("127.0.0.1", 0), gated, **options) as server:
        await server.start_serving()
        server.wanted = 9
        for number in range(9):
            client.sendto(b"%d" % number, server.server_address)
        await server.all_read.wait()
        assert server.statistics.datagrams_dropped == 4
        gated.gate.set()
        assert [await gated.begun.get() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    assert gated.begun.empty()
    assert server.statistics.datagrams_dropped == 4


async def test_without_queue_nothing_is_dropped_while_handlers_may_start(
    client: socket.socket, gated: type[Gated]
) -> None:
    options: dict[str, Any] = {"max_concurrency": 8, "max_queue": 0}
    async with CountingServer(("127.0.0.1", 0), gated, **options) as server:
        await server.start_serving()
        server.wanted = 10
        for number in range(10):
            client.sendto(b"%d" % number, server.server_address)
        await server.all_read.wait()
        assert server.statistics.datagrams_dropped == 2
        assert len([await gated.begun.get() for _ in range(8)]) == 8
        gated.gate.set()


@pytest.mark.parametrize("max_queue", [0, 3])
@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "shuts down"])
async def test_nothing_is_dropped_on_a_unix_socket_whose_senders_wait(
    gated: type[Gated], tmp_path: Path, max_queue: int, ends: bool
) -> None:
    options: dict[str, Any] = {"max_concurrency": 2, "max_queue": max_queue}
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        async with aiosocketserver.UnixDatagramServer(path, gated, **options) as server:
            await server.start_serving()
            # The kernel keeps about ten, or more where the administrator says so.
            kept = 0
            with contextlib.suppress(BlockingIOError):
                while kept < 600:
                    sender.sendto(b"%d" % kept, path)
                    kept += 1
            first = [await gated.begun.get() for _ in range(2)]
            await until(lambda: server.statistics.datagrams_received == 2 + max_queue)
            for _ in range(10):
                await asyncio.sleep(0)
            assert server.statistics.datagrams_received == 2 + max_queue
            gated.gate.set()
            if ends:
                await server.shutdown()
            assert first + [await gated.begun.get() for _ in range(kept - 2)] == [
                b"%d" % number for number in range(kept)
            ]
            assert server.statistics.datagrams_dropped == 0


async def test_every_datagram_of_a_flood_is_handled_or_counted(client: socket.socket) -> None:
    handled = 0

    class Count(Handler):
        async def handle(self) -> None:
            nonlocal handled
            await asyncio.sleep(0)
            handled += 1

    sent = 20_000
    options: dict[str, Any] = {"max_concurrency": 4, "max_queue": 10}
    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Count, **options) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        await server.start_serving()

        client.setblocking(True)

        def flood() -> None:
            for _ in range(sent // 2):
                client.sendto(b"x", server.server_address)

        await asyncio.to_thread(flood)
        flood()  # the loop stands still, so that the kernel has to drop
        await server.shutdown()
        by_kernel = server.datagrams_dropped_by_kernel
        assert by_kernel is not None
        assert by_kernel > 0
        assert server.statistics.datagrams_dropped > 0
        assert sent == handled + server.statistics.datagrams_dropped + by_kernel


async def test_kernel_drops_are_read(client: socket.socket) -> None:
    class Ignore(Handler):
        async def handle(self) -> None:
            pass

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Ignore) as server:
        assert server.datagrams_dropped_by_kernel == 0
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(100):
            client.sendto(bytes(500), server.server_address)
        dropped = server.datagrams_dropped_by_kernel
        assert dropped is not None
        assert 0 < dropped < 100
    assert server.datagrams_dropped_by_kernel is None  # closed


def test_kernel_drops_are_none_where_the_kernel_does_not_tell() -> None:
    class Short(socket.socket):
        def getsockopt(self, *args: Any) -> Any:
            return b"\0" * 8

    with Short(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert kernel_drops(sock) is None


async def test_flood_does_not_starve_the_loop(client: socket.socket) -> None:
    """Between two batches everybody else has a turn, also when handlers never wait."""
    handled = 0
    handled_between_turns = []

    class Count(Handler):
        async def handle(self) -> None:
            nonlocal handled
            handled += 1

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Count) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sent = 4 * DATAGRAM_BATCH
        for _ in range(sent):
            client.sendto(b"x", server.server_address)
        await server.start_serving()
        while handled < sent:
            before = handled
            await asyncio.sleep(0)
            handled_between_turns.append(handled - before)
    assert max(handled_between_turns) <= 2 * DATAGRAM_BATCH


async def test_sending_does_not_starve_the_loop(client: socket.socket) -> None:
    turns = 0
    turns_while_sending = []

    class Chatter(Handler):
        async def handle(self) -> None:
            before = turns
            for _ in range(2_000):
                await self.reply(b"x")
            turns_while_sending.append(turns - before)

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Chatter) as server:
        await server.start_serving()
        client.sendto(b"x", server.server_address)
        while not turns_while_sending:
            turns += 1
            await asyncio.sleep(0)
    assert turns_while_sending[0] >= 5


# --- errors ---


async def test_failing_handler_costs_only_its_own_datagram(
    client: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    class Fail(Handler):
        async def handle(self) -> None:
            if self.request[0] == b"fail":
                raise ValueError("as asked")
            await self.reply(b"done")

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Fail) as server:
        await server.start_serving()
        client.sendto(b"fail", server.server_address)
        assert await ask(client, server, b"x") == b"done"
    assert server.statistics.handlers_failed == 1
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_failing_get_request_does_not_stop_the_server(
    client: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    class Echo(Handler):
        async def handle(self) -> None:
            await self.reply(self.request[0])

    class Picky(aiosocketserver.UDPServer):
        def get_request(self) -> tuple[Any, Any]:
            request, address = super().get_request()
            if request[0] == b"strange":
                raise ValueError("a strange datagram")
            if request[0] == b"broken":
                raise ConnectionRefusedError("as after an ICMP error")
            return request, address

    async with Picky(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        client.sendto(b"strange", server.server_address)
        client.sendto(b"broken", server.server_address)
        assert await ask(client, server, b"good") == b"good"
    assert [record.getMessage() for record in caplog.records] == ["get_request() failed"]


async def test_system_exit_in_a_handler_ends_serve_forever(client: socket.socket) -> None:
    class Exit(Handler):
        async def handle(self) -> None:
            raise SystemExit(3)

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Exit) as server:
        client.sendto(b"x", server.server_address)
        with pytest.raises(SystemExit, match="3"):
            await server.serve_forever()


# --- the end ---


async def test_shutdown_serves_what_is_queued_and_what_the_kernel_holds(
    client: socket.socket,
) -> None:
    handled = []

    class Slow(Handler):
        async def handle(self) -> None:
            await asyncio.sleep(0)
            handled.append(self.request[0])

    options: dict[str, Any] = {"max_concurrency": 2, "max_queue": 1}
    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Slow, **options) as server:
        sent = [b"%d" % number for number in range(150)]
        for data in sent:
            client.sendto(data, server.server_address)
        assert server.datagrams_dropped_by_kernel == 0
        await server.start_serving()
        await server.shutdown()
    assert handled == sent
    assert server.statistics.datagrams_dropped == 0


async def test_shutdown_counts_what_it_forgets_at_the_deadline(
    client: socket.socket, gated: type[Gated]
) -> None:
    options: dict[str, Any] = {"max_concurrency": 1, "max_queue": 10}
    async with CountingServer(("127.0.0.1", 0), gated, **options) as server:
        await server.start_serving()
        server.wanted = 4
        for _ in range(4):
            client.sendto(b"x", server.server_address)
        await server.all_read.wait()
        await gated.begun.get()
        await server.shutdown(timeout=0)
        assert server.statistics.datagrams_dropped == 3


async def test_cancelled_serve_forever_reads_nothing_more_but_serves_the_queue(
    client: socket.socket, gated: type[Gated]
) -> None:
    async with CountingServer(("127.0.0.1", 0), gated, max_concurrency=1) as server:
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        server.wanted = 2
        for _ in range(2):
            client.sendto(b"x", server.server_address)
        await server.all_read.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        client.sendto(b"late", server.server_address)
        gated.gate.set()
        assert [await gated.begun.get() for _ in range(2)] == [b"x", b"x"]
        assert server.read == 2
        await server.start_serving()
        assert await gated.begun.get() == b"late"


async def test_system_exit_in_a_handler_ends_handle_request(client: socket.socket) -> None:
    class Exit(Handler):
        async def handle(self) -> None:
            raise SystemExit(3)

    async with aiosocketserver.UDPServer(("127.0.0.1", 0), Exit) as server:
        client.sendto(b"x", server.server_address)
        with pytest.raises(SystemExit, match="3"):
            await server.handle_request()

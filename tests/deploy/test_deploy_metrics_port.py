"""The port of the metrics holds up neither the service nor a probe, whoever asks there and how."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from aiosocketserver.deploy.binds import Bind, OpenSocket
from aiosocketserver.deploy.metrics import MetricsServer
from aiosocketserver.deploy.snapshots import Snapshot, State
from tests.deploy.test_deploy_metrics import ARGUMENTS, port_of_metrics
from tests.deploy_support import ask, get, serving_application

PROBE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.number = 0
        self._count()

    def _count(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self._count)

    def stop(self) -> None:
        self._handle.cancel()


@contextlib.asynccontextmanager
async def serving_metrics(
    snapshot: Callable[[], Awaitable[Snapshot]],
    state: Callable[[], State] = lambda: State(True, 1, 0),
) -> AsyncGenerator[tuple[str, int]]:
    sock = socket.create_server(("127.0.0.1", 0))
    opened = OpenSocket(sock, Bind("", "fd", False))
    async with MetricsServer(opened, snapshot, state) as server:
        await server.start_serving()
        yield sock.getsockname()


async def no_snapshot() -> Snapshot:
    return Snapshot()


async def test_one_request_is_answered_in_a_turn_of_the_loop() -> None:
    """However many are pipelined on however many connections."""
    turns = Turns()
    answered: list[int] = []

    def state() -> State:
        # Asked for each probe and each rendering.
        answered.append(turns.number)
        return State(True, 1, 0)

    async def client(address: tuple[str, int], question: bytes) -> None:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(question * 5)
        writer.write_eof()
        assert (await reader.read()).count(b"200 OK") == 5
        writer.close()
        await writer.wait_closed()

    ready = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving_metrics(no_snapshot, state) as address:
        questions = [ready] * 10 + [SCRAPE] * 10
        await asyncio.gather(*(client(address, question) for question in questions))
    turns.stop()
    assert len(answered) >= 50
    # Each in a turn of its own, and a free one at least before the next.
    assert len(set(answered)) == len(answered)


async def test_scrapes_at_the_same_time_share_a_rendering_that_is_not_older_than_they() -> None:
    begun = 0
    has_begun = asyncio.Event()
    go_on = asyncio.Event()

    async def snapshot() -> Snapshot:
        nonlocal begun
        begun += 1
        has_begun.set()
        made = Snapshot()
        made.counters["accepted"] = begun
        await go_on.wait()
        return made

    async def scrape(address: tuple[str, int]) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(SCRAPE)
        writer.write_eof()
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith(b"aiosocketserver_req") and b"requests_total" in line
        ]
        return line

    async with serving_metrics(snapshot) as address:
        first = asyncio.create_task(scrape(address))
        await has_begun.wait()
        others = [asyncio.create_task(scrape(address)) for _ in range(20)]
        probe = await asyncio.open_connection(*address)
        # Who counts is slow, and a probe does not wait for it. It comes after those scrapes.
        probe[1].write(PROBE)
        assert b"200 OK" in await probe[0].readuntil(b"alive\n")
        probe[1].close()
        go_on.set()
        assert await first == b"aiosocketserver_requests_total 1.0"
        assert set(await asyncio.gather(*others)) == {b"aiosocketserver_requests_total 2.0"}
    assert begun == 2


async def test_its_end_waits_for_nobody() -> None:
    """Neither silent clients, nor half requests, nor a scrape of what never answers."""

    async def never() -> Snapshot:
        answer: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        return await answer

    clients: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    async with serving_metrics(never) as address:
        for said in (b"", b"GET /hea", PROBE, SCRAPE, PROBE + b"GET /hea"):
            sock = socket.create_connection(address)
            sock.setblocking(False)
            clients.append(sock)
            await loop.sock_sendall(sock, said)
            if said.startswith(PROBE):
                assert b"200 OK" in await loop.sock_recv(sock, 1000)
        turns = Turns()
    # No timer of the shutdown or of lingering has run: that would be some hundred thousand.
    assert turns.number < 1000
    turns.stop()
    for sock in clients:
        sock.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_probe_gets_through_half_requests_and_floods(workers: str, tmp_path: Path) -> None:
    arguments = ("application:Echo", *ARGUMENTS, "--workers", workers)
    with serving_application(tmp_path, *arguments) as command, contextlib.ExitStack() as stack:
        port = port_of_metrics(command)

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), 20))

        newest = None
        for _ in range(200):
            newest = connect()
            newest.sendall(b"GET /hea")
        assert newest is not None
        assert get(port, "/healthz") == (200, "alive\n")
        # Only the oldest had to go.
        newest.sendall(b"lthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in newest.recv(1000)
        for _ in range(20):
            connect().sendall(SCRAPE * 100)
        assert get(port, "/readyz") == (200, "ready\n")
        assert ask(command.ports[0], b"a\n") == b"a\n"
        assert command.end() == 0
        (told,) = [line for line in command.lines if "the port of the metrics were closed" in line]
        assert "WARNING" in told

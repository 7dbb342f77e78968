"""What a server counts, and that nobody is counted twice."""

import asyncio
import socketserver
import threading
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    ForkingTCPServer,
    Statistics,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
)
from aiosocketserver.requests.entries import InProgress
from aiosocketserver.requests.registry import RequestsInProgress
from tests.servers.test_time_outs import client_of_datagrams
from tests.support import ask, client_of, until, until_later

LOCALHOST = ("127.0.0.1", 0)


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


@pytest.mark.parametrize(
    ("make", "handler"),
    [(TCPServer, Echo), (ThreadingTCPServer, LegacyEcho), (ForkingTCPServer, LegacyEcho)],
)
async def test_requests_are_counted_once_wherever_they_run(make: Any, handler: Any) -> None:
    async with make(LOCALHOST, handler) as server:
        await server.start_serving()
        statistics = server.statistics
        async with AsyncExitStack() as stack:
            for n in (1, 2, 3):
                client = await stack.enter_async_context(client_of(server.server_address))
                await client.send(b"x\n")
                assert await client.receive(2) == b"x\n"
                # Children have copies of the clients' descriptors.
                stack.callback(client.finish)
                assert (statistics.accepted, statistics.active, statistics.peak) == (n, n, n)
        await until_later(lambda: statistics.active == 0)
        assert await ask(server.server_address, b"x\n") == b"x\n"
        await until_later(lambda: statistics.active == 0)
        assert (statistics.accepted, statistics.finished, statistics.peak) == (4, 4, 3)


async def test_bytes_are_counted_while_they_move_and_afterwards() -> None:
    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        statistics = server.statistics
        async with client_of(server.server_address) as client:
            for n in (1, 2):
                await client.send(b"12345\n")
                assert await client.receive(6) == b"12345\n"
                assert (statistics.bytes_received, statistics.bytes_sent) == (6 * n, 6 * n)
        await until(lambda: not statistics.active)
        assert (statistics.bytes_received, statistics.bytes_sent) == (12, 12)


async def test_bytes_of_every_way_to_send() -> None:
    class Sends(BaseRequestHandler):
        async def handle(self) -> None:
            sock = self.request
            await sock.send(b"1")
            await sock.sendall(b"22")
            await sock.sendmsg([b"333", b"4444"])
            sock._write(b"55555")

    async with TCPServer(LOCALHOST, Sends) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"122333444455555"
        await until(lambda: not server.statistics.active)
        assert server.statistics.bytes_sent == 15


def test_those_that_have_counted_the_same_are_equal() -> None:
    assert Statistics() == Statistics()
    assert Statistics(accepted=1) != Statistics()


@pytest.mark.parametrize("legacy", [False, True])
async def test_the_time_in_handlers_is_added_up(legacy: bool) -> None:
    class Slow(BaseRequestHandler):
        async def handle(self) -> None:
            await asyncio.sleep(0.05)

    class LegacySlow(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            time.sleep(0.05)

    make: Any = ThreadingTCPServer if legacy else TCPServer
    async with make(LOCALHOST, LegacySlow if legacy else Slow) as server:
        await server.start_serving()
        for _ in range(3):
            await ask(server.server_address)
        await until_later(lambda: not server.statistics.active)
        assert 0.14 < server.statistics.handling_time < 5


async def test_pauses_of_accepting_are_counted() -> None:
    async with TCPServer(LOCALHOST, Echo, max_connections=1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await first.send(b"x\n")
            assert await first.receive(2) == b"x\n"
            async with client_of(server.server_address):
                await until(lambda: server.statistics.accept_pauses)
        assert server.statistics.accept_pauses == 1


async def test_datagrams_are_counted() -> None:
    class EchoOne(BaseRequestHandler):
        async def handle(self) -> None:
            data, sock = self.request
            await sock.sendto(data, self.client_address)

    async with UDPServer(LOCALHOST, EchoOne) as server:
        await server.start_serving()
        async with client_of_datagrams(server.server_address) as client:
            for _ in range(5):
                await client.send(b"x")
                assert await client.receive(1) == b"x"
        statistics = server.statistics
        await until(lambda: not statistics.active)
        assert (statistics.datagrams_received, statistics.accepted, statistics.finished) == (
            5,
            5,
            5,
        )


async def test_they_can_be_read_in_any_thread_while_connections_come_and_go() -> None:
    errors: list[BaseException] = []
    stop = threading.Event()

    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()

        def look() -> None:
            try:
                while not stop.is_set():
                    assert server.statistics.bytes_sent >= 0
                    assert "accepted=" in repr(server.statistics)
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(100):
                await ask(server.server_address, b"x\n")
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)
    assert errors == []


@pytest.mark.parametrize(
    ("make", "handler"),
    [(TCPServer, Echo), (ThreadingTCPServer, LegacyEcho), (ForkingTCPServer, LegacyEcho)],
)
async def test_no_counter_goes_back_for_whoever_looks_in_between(
    make: Any, handler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may look at any moment: this one does where a request comes or goes."""
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        statistics = server.statistics
        seen.append((statistics.accepted, statistics.finished, statistics.active))

    def add(requests: RequestsInProgress, entry: InProgress) -> None:
        set.add(requests, entry)
        look()

    def remove(requests: RequestsInProgress, entry: InProgress) -> None:
        set.remove(requests, entry)
        look()

    monkeypatch.setattr(RequestsInProgress, "add", add)
    monkeypatch.setattr(RequestsInProgress, "remove", remove)
    async with make(LOCALHOST, handler) as server:
        await server.start_serving()
        for _ in range(3):
            assert await ask(server.server_address, b"x\n") == b"x\n"
            await until_later(lambda: server.statistics.active == 0)
        look()
    accepted, finished, active = zip(*seen, strict=True)
    assert list(accepted) == sorted(accepted)
    assert list(finished) == sorted(finished)
    assert set(active) <= {0, 1}
    assert seen[-1] == (3, 3, 0)

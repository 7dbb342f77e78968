"""Ten thousand connections that do nothing, and a hundred that do."""

import asyncio
import resource
import socketserver
import threading
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from aiosocketserver import GreenletTCPServer, StreamRequestHandler, TCPServer
from tests.support import client_of, until

IDLE = 9_600
ACTIVE = 100


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def are_active(server: TCPServer, number: int) -> bool:
    return server.statistics.active == number


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("server_class", "handler"),
    [(TCPServer, Echo), (GreenletTCPServer, LegacyEcho)],
    ids=["tasks", "greenlets"],
)
async def test_ten_thousand_idle_connections_starve_no_active_one(
    server_class: type[TCPServer], handler: Any
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Both ends are in this process, and the test's own descriptors.
    idle = min(IDLE, (most - 2 * ACTIVE - 200) // 2)
    assert idle >= 1000, f"the limit of descriptors is too low for this test: {most}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    slowest = 0.0
    threads = threading.active_count()

    async def talk(stack: AsyncExitStack) -> None:
        nonlocal slowest
        client = await stack.enter_async_context(client_of(server.server_address))
        for _ in range(50):
            begun = time.monotonic()
            await client.send(b"hello\n")
            assert await client.receive(6) == b"hello\n"
            slowest = max(slowest, time.monotonic() - begun)

    async with (
        AsyncExitStack() as stack,
        server_class(
            ("127.0.0.1", 0),
            handler,
            idle_timeout=600,
            read_timeout=60,
            request_queue_size=4096,
            # It has a thread.
            blocking_warning=None,
        ) as server,
    ):
        await server.start_serving()
        for n in range(1, idle + 1):
            await stack.enter_async_context(client_of(server.server_address))
            if n % 1000 == 0:
                await until(partial(are_active, server, n))
        await until(lambda: server.statistics.active == idle)
        await asyncio.gather(*(talk(stack) for _ in range(ACTIVE)))
        statistics = server.statistics
        assert statistics.active == idle + ACTIVE
        assert threading.active_count() == threads
        assert (statistics.handlers_failed, statistics.clients_vanished) == (0, 0)
        assert not statistics.timed_out
        # All hundred at once, each in its turn: far from starving, however slow the machine.
        assert slowest < 5
        await server.shutdown(0)

"""Task groups in a handler that end themselves: TaskGroup.cancel() of Python 3.15."""

import asyncio
from typing import Any

import pytest

import aiosocketserver
from tests.support import ask, client_of, until

pytestmark = pytest.mark.skipif(
    not hasattr(asyncio.TaskGroup, "cancel"), reason="TaskGroup.cancel() is of Python 3.15"
)


async def test_a_group_that_ends_itself_is_no_end_of_the_handler() -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            group: Any
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
                await self.rfile.readline()
                group.cancel()
            await self.wfile.write(b"after the group\n")

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"\n") == b"after the group\n"
    assert server.statistics.handlers_failed == 0


async def test_a_time_limit_that_a_group_swallows_ends_the_request_all_the_same() -> None:
    """CPython issue 155433: it takes the cancellation of a time limit for its own."""

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            group: Any
            await self.wfile.write(b"begun\n")
            while True:
                async with asyncio.TaskGroup() as group:
                    try:
                        await self.rfile.readline()
                    finally:
                        group.cancel()

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Handler, request_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            assert await client.receive_all() == b""
        await until(lambda: server.statistics.finished == 1)
        assert server.statistics.timed_out == {"request_timeout": 1}

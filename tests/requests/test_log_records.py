"""Every log record tells whose request it is about."""

import asyncio
import logging
import socketserver
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import StreamRequestHandler, TCPServer, ThreadingTCPServer
from tests.support import ask, client_of, until

LOCALHOST = ("127.0.0.1", 0)


def of_requests(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, Any]]:
    """The client and the number in each record of ours that is not about the server."""
    records: list[Any] = [r for r in caplog.records if r.name == "aiosocketserver"]
    return [(r.client_address, r.request_id) for r in records if r.request_id is not None]


@pytest.mark.parametrize("legacy", [False, True])
async def test_a_failure_tells_whose_it_is(legacy: bool, caplog: pytest.LogCaptureFixture) -> None:
    numbers: list[int | None] = []

    class Fails(StreamRequestHandler):
        async def handle(self) -> None:
            numbers.append(aiosocketserver.request_id())
            raise LookupError

    class LegacyFails(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            numbers.append(aiosocketserver.request_id())
            raise LookupError

    make: Any = ThreadingTCPServer if legacy else TCPServer
    addresses: list[Any] = []
    async with make(LOCALHOST, LegacyFails if legacy else Fails) as server:
        await server.start_serving()
        for _ in range(2):
            async with client_of(server.server_address) as client:
                addresses.append(client.sock.getsockname())
                assert await client.receive_all() == b""
    assert of_requests(caplog) == list(zip(addresses, numbers, strict=True))
    assert len(set(numbers)) == 2
    assert aiosocketserver.request_id() is None


async def test_a_time_out_is_told_of_the_client_that_it_struck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its timer was armed by somebody else, who wrote to it."""
    caplog.set_level(logging.INFO, "aiosocketserver")
    members: dict[Any, StreamRequestHandler] = {}

    class Chat(StreamRequestHandler):
        async def handle(self) -> None:
            members[self.client_address] = self
            async for line in self.rfile:
                for member in members.values():
                    if member is not self:
                        member.request._write(line * 60000)
                        member.request._send_pending()

    async with TCPServer(LOCALHOST, Chat, write_timeout=0.2) as server:
        await server.start_serving()
        async with (
            client_of(server.server_address) as deaf,
            client_of(server.server_address) as talker,
        ):
            await until(lambda: len(members) == 2)
            while not server.statistics.timed_out:
                await talker.send(b"0123456789\n")
                await asyncio.sleep(0.01)
            struck = deaf.sock.getsockname()
    assert {client for client, _ in of_requests(caplog)} == {struck}


async def test_a_format_can_name_them_in_every_record() -> None:
    lines: list[str] = []

    class Fails(StreamRequestHandler):
        async def handle(self) -> None:
            raise LookupError

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(logging.Formatter("%(request_id)s %(client_address)s %(message)s"))
    logger = logging.getLogger("aiosocketserver")
    logger.addHandler(handler)
    try:
        logger.warning("about nobody")
        async with TCPServer(LOCALHOST, Fails) as server:
            await server.start_serving()
            assert await ask(server.server_address) == b""
    finally:
        logger.removeHandler(handler)
    assert lines[0] == "None None about nobody"
    assert lines[1].split()[0].isdigit()

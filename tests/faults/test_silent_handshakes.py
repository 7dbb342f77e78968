"""Five hundred clients that open a TLS connection and say nothing, or rubbish."""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer
from tests.support import client_of, until
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("said", [0, 5, 1000], ids=["silent", "a record's head", "rubbish"])
async def test_others_are_served_meanwhile(
    said: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates.make(tmp_path)
    context = certificates.server_context()
    client = certificates.client_context()
    # The first bytes are those of a handshake, so that it goes on for a while.
    rubbish = (b"\x16\x03\x01\x40\x00" + os.urandom(1000))[:said]
    async with (
        TCPServer(LOCALHOST, Echo, ssl_context=context, handshake_timeout=5) as server,
        AsyncExitStack() as stack,
    ):
        await server.start_serving()
        for _ in range(500):
            peer = await stack.enter_async_context(client_of(server.server_address))
            await peer.send(rubbish)
        await until(lambda: server.statistics.accepted == 500)
        async with tls_client(server.server_address, client) as (reader, writer):
            for _ in range(20):
                writer.write(b"hello\n")
                assert await reader.readline() == b"hello\n"
        # Their handshakes still go on.
        assert server.statistics.active > 1
        while server.statistics.active:  # noqa: ASYNC110 - they have five seconds
            await asyncio.sleep(0.05)
        statistics = server.statistics
        cut = statistics.timed_out["handshake_timeout"] + statistics.handshakes_failed
        assert cut == 500
        assert (statistics.handlers_failed, statistics.clients_vanished) == (0, 0)
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]

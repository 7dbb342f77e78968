"""The limits of `rfile`: exact, taking nothing, and what they do to the connection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer
from aiosocketserver.errors import LimitExceeded
from aiosocketserver.sockets.files import SocketReader
from tests.support import Peer, ask, connected

LINE = 10
BLOCK = 20


@pytest.fixture
async def pair() -> AsyncIterator[tuple[SocketReader, Peer]]:
    async with connected() as (connection, peer):
        yield (
            SocketReader(connection, segment_size=1024, max_line_size=LINE, max_block_size=BLOCK),
            peer,
        )


Read = Callable[[SocketReader], Awaitable[bytes]]
LINE_METHODS: dict[str, tuple[Read, bytes]] = {
    "readline": (lambda rfile: rfile.readline(), b"\n"),
    "anext": (lambda rfile: anext(rfile), b"\n"),
    "readuntil": (lambda rfile: rfile.readuntil(b"\r\n"), b"\r\n"),
}


@pytest.mark.parametrize("name", LINE_METHODS)
@pytest.mark.parametrize("in_bytes", [False, True])
async def test_line_may_have_the_limit_and_not_one_byte_more(
    pair: tuple[SocketReader, Peer], name: str, in_bytes: bool
) -> None:
    rfile, peer = pair
    method, end = LINE_METHODS[name]
    fits = b"x" * (LINE - len(end)) + end
    too_long = b"x" + fits

    async def send(data: bytes) -> None:
        for byte in data if in_bytes else ():
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        if not in_bytes:
            await peer.send(data)

    reading = asyncio.create_task(_result(method(rfile)))
    await asyncio.sleep(0)
    await send(fits)
    assert await reading == fits
    reading = asyncio.create_task(_result(method(rfile)))
    await asyncio.sleep(0)
    await send(too_long)
    with pytest.raises(LimitExceeded, match=f"line is longer than .* max_line_size, {LINE} bytes"):
        await reading
    # Nothing was taken, so the same error again, and all of it for `read1`.
    with pytest.raises(LimitExceeded):
        await method(rfile)
    assert await rfile.readexactly(len(too_long)) == too_long
    await send(fits)
    assert await method(rfile) == fits


async def _result(awaitable: Awaitable[bytes]) -> bytes:
    return await awaitable


@pytest.mark.parametrize("name", LINE_METHODS)
async def test_too_long_line_is_told_before_its_end_comes(
    pair: tuple[SocketReader, Peer], name: str
) -> None:
    rfile, peer = pair
    method, _ = LINE_METHODS[name]
    await peer.send(b"x" * LINE)
    with pytest.raises(LimitExceeded):
        await method(rfile)
    assert await rfile.read1() == b"x" * LINE


@pytest.mark.parametrize("name", LINE_METHODS)
async def test_too_long_line_behind_a_good_one_spares_that(
    pair: tuple[SocketReader, Peer], name: str
) -> None:
    rfile, peer = pair
    method, end = LINE_METHODS[name]
    await peer.send(b"good" + end + b"x" * LINE + end)
    assert await method(rfile) == b"good" + end
    with pytest.raises(LimitExceeded):
        await method(rfile)
    assert await rfile.read1() == b"x" * LINE + end


async def test_last_line_without_end_may_be_one_less_than_the_limit(
    pair: tuple[SocketReader, Peer],
) -> None:
    rfile, peer = pair
    await peer.send(b"x" * (LINE - 1))
    peer.finish()
    assert await rfile.readline() == b"x" * (LINE - 1)


async def test_readline_with_size_is_not_bound_by_the_line_limit(
    pair: tuple[SocketReader, Peer],
) -> None:
    rfile, peer = pair
    await peer.send(b"x" * 3 * LINE + b"\n")
    assert await rfile.readline(2 * LINE) == b"x" * 2 * LINE
    assert await rfile.readline(2 * LINE) == b"x" * LINE + b"\n"


async def test_block_may_have_the_limit_and_not_one_byte_more(
    pair: tuple[SocketReader, Peer],
) -> None:
    rfile, peer = pair
    data = bytes(range(BLOCK))
    for method in (rfile.readexactly, rfile.read):
        await peer.send(data)
        with pytest.raises(
            LimitExceeded, match=f"block of {BLOCK + 1} bytes .* max_block_size, {BLOCK} bytes"
        ):
            await method(BLOCK + 1)
        assert await method(BLOCK) == data
    await peer.send(data)
    with pytest.raises(LimitExceeded):
        await rfile.readinto(bytearray(BLOCK + 1))
    assert await rfile.readinto(bytearray(BLOCK)) == BLOCK


async def test_everything_may_have_the_limit(pair: tuple[SocketReader, Peer]) -> None:
    rfile, peer = pair
    data = bytes(range(BLOCK))
    await peer.send(data)
    peer.finish()
    assert await rfile.read() == data


async def test_everything_may_not_have_one_byte_more_and_no_more_is_taken_then(
    pair: tuple[SocketReader, Peer],
) -> None:
    rfile, peer = pair
    data = bytes(range(BLOCK + 1))
    await peer.send(data)
    with pytest.raises(LimitExceeded):
        await rfile.read()
    await peer.send(b"more")
    for _ in range(3):
        with pytest.raises(LimitExceeded):
            await rfile.read()
    assert await rfile.read1() == data
    assert await rfile.read1() == b"more"


async def test_limit_error_left_alone_ends_the_connection_without_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(line)

    caplog.set_level(logging.INFO, "aiosocketserver")
    async with TCPServer(("127.0.0.1", 0), Handler, max_line_size=LINE) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"good\n" + b"x" * 100_000) == b"good\n"
        assert await ask(server.server_address, b"next\n") == b"next\n"
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.exc_info is None
    assert "max_line_size" in record.getMessage()
    assert server.statistics.clients_vanished == 1
    assert server.statistics.handlers_failed == 0


async def test_handler_may_catch_the_limit_error_and_go_on() -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            try:
                await self.rfile.readline()
            except LimitExceeded:
                taken = await self.rfile.read1()
                await self.wfile.write(b"too long: %d\n" % len(taken))
            await self.wfile.write(await self.rfile.readline())

    async with TCPServer(("127.0.0.1", 0), Handler, max_line_size=LINE) as server:
        await server.start_serving()
        # One client after another: what read1 takes is what was sent in one piece.
        assert await ask(server.server_address, b"x" * 11) == b"too long: 11\n"


async def test_limits_are_the_servers_options() -> None:
    limits = []

    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            limits.append((self.rfile.max_line_size, self.rfile.max_block_size))

    async with TCPServer(("127.0.0.1", 0), Handler, max_line_size=7, max_block_size=8) as server:
        await server.start_serving()
        await ask(server.server_address)
    assert limits == [(7, 8)]

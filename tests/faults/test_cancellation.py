"""A cancellation at every await of a handler, one after the other.

The handler's task is cancelled at its n-th suspension, for n = 1, 2, ... until it gets
through to its end. Whatever it was doing: nothing leaks, the server goes on, and what
was acknowledged (written before a `flush` that returned) arrives whole.
"""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler, TCPServer
from tests.support import until
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)


class CancelledAt(Coroutine[Any, Any, None]):
    """A coroutine around another one, whose task is cancelled at the n-th suspension."""

    def __init__(self, inner: Coroutine[Any, Any, None], n: int) -> None:
        self._inner = inner
        self._left = n
        self.struck = False

    def send(self, value: Any) -> Any:
        result = self._inner.send(value)
        self._left -= 1
        if self._left == 0:
            self.struck = True
            task = asyncio.current_task()
            assert task is not None
            # Before it is waited for: as though somebody had cancelled it just now.
            task.get_loop().call_soon(task.cancel)
        return result

    def throw(self, *error: Any) -> Any:
        return self._inner.throw(*error)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError


async def awaited(coroutine: CancelledAt) -> None:
    """Drive it inside the running task."""

    class Driven:
        def __await__(self) -> Generator[Any, Any, None]:
            value: Any = None
            while True:
                try:
                    waited_for = coroutine.send(value)
                except StopIteration:
                    return
                while True:
                    try:
                        value = yield waited_for
                        break
                    except BaseException as error:  # noqa: BLE001 - handed on inside
                        try:
                            waited_for = coroutine.throw(error)
                        except StopIteration:
                            return

    await Driven()


class Session(StreamRequestHandler):
    """Uses every way to wait that a connection has; what was flushed is acknowledged."""

    acknowledged = b""
    folder: Path

    async def handle(self) -> None:
        name = await self.rfile.readline()
        await self.say(b"hello " + name)
        await self.say(await self.rfile.readexactly(100_000))
        await self.rfile.readuntil(b"|")
        await self.request.sendall(bytes(300_000))
        type(self).acknowledged += bytes(300_000)
        path = self.folder / "file"
        path.write_bytes(b"f" * 200_000)
        with path.open("rb") as file:
            await self.request.sendfile(file)
        type(self).acknowledged += b"f" * 200_000
        for _ in range(3):
            await self.wfile.write(b"w" * 70_000)
        await self.wfile.flush()
        type(self).acknowledged += b"w" * 210_000
        await self.request.recv(1)
        await self.say(b"end\n")

    async def say(self, data: bytes) -> None:
        await self.wfile.write(data)
        await self.wfile.flush()
        type(self).acknowledged += data


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Send all that a session wants, slowly, and return all that it says."""
    received = bytearray()

    async def read() -> None:
        with contextlib.suppress(OSError):
            while block := await reader.read(20_000):
                received.extend(block)

    async def write() -> None:
        with contextlib.suppress(OSError):
            for part in (b"a", b"nn\n", b"x" * 50_000, b"x" * 50_000, b"-", b"|", b"."):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
                await asyncio.sleep(0)

    await asyncio.gather(read(), write())
    return bytes(received)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_cancelled_at_each_suspension(tls: bool, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    points: list[CancelledAt] = []
    at = 0

    class CancelledSession(Session):
        folder = tmp_path

        def __await__(self) -> Generator[Any, Any, None]:
            self._awaited = True
            point = CancelledAt(self._serve(), at)
            points.append(point)
            return awaited(point).__await__()

    context = certificates.server_context() if tls else None
    async with TCPServer(LOCALHOST, CancelledSession, ssl_context=context) as server:
        await server.start_serving()
        connect: Callable[[], Any]
        before = None
        while True:
            at += 1
            Session.acknowledged = b""
            CancelledSession.acknowledged = b""
            if tls:
                connect = lambda: tls_client(  # noqa: E731
                    server.server_address, certificates.client_context(), limit=2**20
                )
            else:
                connect = lambda: plain_client(server.server_address)  # noqa: E731
            async with connect() as (reader, writer):
                received = await talk(reader, writer)
            await until(lambda: not server.requests())
            await until(lambda: not server._connections.closing())
            assert received.startswith(CancelledSession.acknowledged), f"suspension {at}"
            assert server.statistics.handlers_failed == 0, f"suspension {at}"
            gc.collect()
            if before is None:
                before = descriptors()
            assert descriptors() <= before, f"suspension {at} leaks a descriptor"
            if not points[-1].struck:
                break
            assert at < 500, "the session never gets to its end"
        # It got through, so all of it was acknowledged.
        assert CancelledSession.acknowledged.endswith(b"end\n")
    # As many waits as the session has, at the very least.
    assert at > 5


@contextlib.asynccontextmanager
async def plain_client(
    address: Any,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, limit=2**20)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

"""`sendfile` of the socket that a stream handler holds."""

import asyncio
import errno
import io
import os
import socket
import threading
from pathlib import Path

import pytest

from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.plain_socket import is_error_of
from tests.support import connected, fill, until

# More than a connection holds in its kernel buffers.
CONTENT = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sendfile") / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize(
    ("offset", "count"),
    [(0, None), (1000, None), (0, 10), (1000, 2_000_000), (2_999_990, 100)],
)
async def test_a_regular_file(path: Path, offset: int, count: int | None) -> None:
    expected = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]
    async with connected() as (request, peer):
        with path.open("rb") as file:
            sent = asyncio.create_task(request.sendfile(file, offset, count))
            assert await peer.receive(len(expected)) == expected
            assert await sent == len(expected)
            assert file.tell() == offset + len(expected)
        request.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == b""


async def test_the_position_before_does_not_count(path: Path) -> None:
    async with connected() as (request, peer):
        with path.open("rb") as file:
            file.seek(500)
            assert await request.sendfile(file, 0, 10) == 10
            assert file.tell() == 10
        assert await peer.receive(10) == CONTENT[:10]


async def test_beyond_the_end_nothing_is_sent_and_the_position_stays(path: Path) -> None:
    async with connected() as (request, _):
        with path.open("rb") as file:
            file.seek(7)
            assert await request.sendfile(file, 5_000_000) == 0
            assert file.tell() == 7


async def test_the_position_is_behind_what_was_sent_also_after_an_error(path: Path) -> None:
    async with connected() as (request, peer):
        with path.open("rb") as file:
            request.settimeout(0.02)
            with pytest.raises(TimeoutError) as caught:
                await request.sendfile(file, 1000)
            assert is_error_of(caught.value, request)
            sent = file.tell() - 1000
            assert sent > 0
            assert await peer.receive(sent) == CONTENT[1000 : 1000 + sent]
            request.settimeout(None)
            # And from there it goes on.
            rest = asyncio.create_task(request.sendfile(file, file.tell()))
            assert await peer.receive(len(CONTENT) - 1000 - sent) == CONTENT[1000 + sent :]
            await rest


async def test_the_position_is_behind_what_was_sent_also_when_cancelled(path: Path) -> None:
    async with connected() as (request, peer):
        with path.open("rb") as file:
            sending = asyncio.create_task(request.sendfile(file))
            await until(lambda: request._writer_registered)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            sent = file.tell()
            assert await peer.receive(sent) == CONTENT[:sent]
            request.shutdown(socket.SHUT_WR)
            assert await peer.receive_all() == b""


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, None), (0, 10), (1000, 2_000_000)])
async def test_a_file_in_memory(offset: int, count: int | None) -> None:
    expected = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]
    async with connected() as (request, peer):
        file = io.BytesIO(CONTENT)
        sent = asyncio.create_task(request.sendfile(file, offset, count))
        assert await peer.receive(len(expected)) == expected
        assert await sent == len(expected)
        assert file.tell() == offset + len(expected)


@pytest.mark.skipif(not os.path.exists("/proc/version"), reason="there is no /proc")
async def test_a_file_that_says_it_is_empty_and_is_not() -> None:
    async with connected() as (request, peer):
        with open("/proc/version", "rb") as file:
            assert os.fstat(file.fileno()).st_size == 0
            content = file.read()
            file.seek(0)
            assert await request.sendfile(file) == len(content)
        assert await peer.receive(len(content)) == content


async def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    async with connected() as (request, _):
        with (tmp_path / "empty").open("rb") as file:
            assert await request.sendfile(file) == 0


async def test_a_pipe() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb") as source:
        source.write(b"through a pipe")
        source.close()
        async with connected() as (request, peer):
            assert await request.sendfile(file) == 14
            assert await peer.receive(14) == b"through a pipe"


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS])
async def test_a_file_system_that_cannot(
    path: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "sendfile", cannot)
    async with connected() as (request, peer):
        with path.open("rb") as file:
            sent = asyncio.create_task(request.sendfile(file, 1000, 2_000_000))
            assert await peer.receive(2_000_000) == CONTENT[1000:2_001_000]
            assert await sent == 2_000_000


async def test_a_failing_disk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sendfile = os.sendfile

    def fail_after_some(out: int, file: int, offset: int, count: int) -> int:
        if offset >= 100:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return sendfile(out, file, offset, min(count, 100))

    monkeypatch.setattr(os, "sendfile", fail_after_some)
    async with connected() as (request, peer):
        with path.open("rb") as file:
            with pytest.raises(OSError, match="Invalid argument"):
                await request.sendfile(file)
            assert file.tell() == 100
        request.shutdown(socket.SHUT_WR)
        assert await peer.receive_all() == CONTENT[:100]


async def test_wrong_arguments_are_the_errors_of_socket(path: Path) -> None:
    async with connected() as (request, _):
        with path.open() as text, pytest.raises(ValueError, match="binary mode"):
            await request.sendfile(text)  # type: ignore[arg-type]
        with path.open("rb") as file:
            for count in 0, -1:
                with pytest.raises(ValueError, match="count must be positive"):
                    await request.sendfile(file, 0, count)


async def test_what_was_written_leaves_before_the_file_and_what_follows_after(
    path: Path,
) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = fill(ours)
    async with connected((ours, theirs)) as (request, peer):
        writer = SocketWriter(request)
        await writer.write(b"header")
        with path.open("rb") as file:
            sending = asyncio.create_task(request.sendfile(file))
            await asyncio.sleep(0)
            await writer.write(b"trailer")
            await peer.receive(filled)
            assert await peer.receive(6) == b"header"
            assert await peer.receive(len(CONTENT)) == CONTENT
            assert await peer.receive(7) == b"trailer"
            await sending


async def test_the_peer_gets_it_all_from_a_thread_that_reads_slowly(path: Path) -> None:
    ours, theirs = socket.socketpair()
    received = bytearray()

    def read() -> None:
        while block := theirs.recv(10_000):
            received.extend(block)

    async with connected((ours, theirs)) as (request, _):
        theirs.setblocking(True)
        reader = threading.Thread(target=read)
        reader.start()
        with path.open("rb") as file:
            assert await request.sendfile(file) == len(CONTENT)
        request.shutdown(socket.SHUT_WR)
        await asyncio.to_thread(reader.join)
    assert received == CONTENT

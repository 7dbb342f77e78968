"""`rfile`: each method against segments as they come, the end, and the peer's silence."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiosocketserver import TCPServer
from aiosocketserver.requests.handlers import StreamRequestHandler
from aiosocketserver.sockets.files import SocketReader
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import Peer, client_of, connected, tcp_pair, until

Connection = tuple[SocketReader, Peer, StreamSocket]


def reader_of(connection: StreamSocket, *, segment_size: int = 64 * 1024) -> SocketReader:
    return SocketReader(
        connection, segment_size=segment_size, max_line_size=64 * 1024, max_block_size=1024 * 1024
    )


@pytest.fixture
async def pair() -> AsyncIterator[Connection]:
    async with connected() as (connection, peer):
        yield reader_of(connection), peer, connection


async def started(awaitable: Awaitable[bytes]) -> asyncio.Task[bytes]:
    """A task that has run until it waits."""

    async def run() -> bytes:
        return await awaitable

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    return task


async def test_readline_gives_one_line_with_its_end(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"one\ntwo\n\nfour")
    assert await rfile.readline() == b"one\n"
    assert await rfile.readline() == b"two\n"
    assert await rfile.readline() == b"\n"
    peer.finish()
    assert await rfile.readline() == b"four"
    assert await rfile.readline() == b""
    assert await rfile.readline() == b""


METHODS: dict[str, tuple[Callable[[SocketReader], Awaitable[bytes]], bytes]] = {
    "readline": (lambda rfile: rfile.readline(), b"GET / HTTP\r\n"),
    "anext": (lambda rfile: anext(rfile), b"GET / HTTP\r\n"),
    "readline with size": (lambda rfile: rfile.readline(100), b"GET / HTTP\r\n"),
    "readuntil": (lambda rfile: rfile.readuntil(b"\r\n\r\n"), b"a: b\r\nc: d\r\r\n\r\n"),
    "readexactly": (lambda rfile: rfile.readexactly(10), b"0123456789"),
    "read": (lambda rfile: rfile.read(10), b"0123456789"),
}


@pytest.mark.parametrize("name", METHODS)
async def test_block_split_over_segments_arrives_whole(pair: Connection, name: str) -> None:
    rfile, peer, _ = pair
    method, block = METHODS[name]
    task = await started(method(rfile))
    for byte in block:
        assert not task.done()
        await peer.send(bytes([byte]))
        # The reader takes this byte, and waits again, before the next one is sent.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert await task == block
    await peer.send(block + b"rest")
    assert await method(rfile) == block
    assert await rfile.read1() == b"rest"


@pytest.mark.parametrize("name", METHODS)
async def test_cancelled_read_keeps_what_had_arrived(pair: Connection, name: str) -> None:
    rfile, peer, _ = pair
    method, block = METHODS[name]
    for cut in range(len(block)):
        task = await started(method(rfile))
        await peer.send(block[:cut])
        if cut:
            await until(lambda: len(rfile._buffer) > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.send(block[cut:])
        assert await method(rfile) == block


@pytest.mark.parametrize("name", METHODS)
async def test_timed_out_read_keeps_what_had_arrived(pair: Connection, name: str) -> None:
    rfile, peer, connection = pair
    method, block = METHODS[name]
    connection.settimeout(0.01)
    await peer.send(block[:3])
    with pytest.raises(TimeoutError):
        await method(rfile)
    connection.settimeout(None)
    await peer.send(block[3:])
    assert await method(rfile) == block


async def test_read_cancelled_in_the_turn_in_which_input_came_loses_nothing(
    pair: Connection,
) -> None:
    rfile, peer, _ = pair
    task = await started(rfile.readline())
    peer.sock.send(b"line\n")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rfile.readline() == b"line\n"


async def test_readline_with_size_gives_a_longer_line_in_pieces(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"12345\n1234\nx")
    assert await rfile.readline(5) == b"12345"
    assert await rfile.readline(5) == b"\n"
    assert await rfile.readline(5) == b"1234\n"
    peer.finish()
    assert await rfile.readline(5) == b"x"
    assert await rfile.readline(5) == b""


async def test_reads_of_size_zero_do_not_wait(pair: Connection) -> None:
    rfile, _, _ = pair
    assert await rfile.readline(0) == b""
    assert await rfile.read(0) == b""
    assert await rfile.read1(0) == b""
    assert await rfile.readexactly(0) == b""
    assert await rfile.readinto(bytearray()) == 0


async def test_lines_are_iterated_until_the_end(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"a\nb\nlast")
    peer.finish()
    assert [line async for line in rfile] == [b"a\n", b"b\n", b"last"]
    assert [line async for line in rfile] == []


async def test_readuntil_tells_what_there_was_at_the_end(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"head\r\n\r\nbody")
    peer.finish()
    assert await rfile.readuntil(b"\r\n\r\n") == b"head\r\n\r\n"
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await rfile.readuntil(b"\r\n\r\n")
    assert (caught.value.partial, caught.value.expected) == (b"body", None)
    assert await rfile.read() == b""


async def test_readexactly_tells_what_there_was_at_the_end(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"1234567")
    peer.finish()
    assert await rfile.readexactly(4) == b"1234"
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await rfile.readexactly(4)
    assert (caught.value.partial, caught.value.expected) == (b"567", 4)


async def test_read_with_size_gives_less_only_at_the_end(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"1234567")
    peer.finish()
    assert await rfile.read(5) == b"12345"
    assert await rfile.read(5) == b"67"
    assert await rfile.read(5) == b""


@pytest.mark.parametrize("size", [-1, None])
async def test_read_without_size_gives_everything_until_the_end(
    pair: Connection, size: int | None
) -> None:
    rfile, peer, _ = pair
    task = await started(rfile.read(size))
    await peer.send(b"one ")
    await until(lambda: len(rfile._buffer) > 0)
    await peer.send(b"two")
    peer.finish()
    assert await task == b"one two"
    assert await rfile.read(size) == b""


async def test_read1_gives_what_is_there_and_waits_only_for_the_first_byte(
    pair: Connection,
) -> None:
    rfile, peer, _ = pair
    task = await started(rfile.read1())
    await peer.send(b"12345")
    assert await task == b"12345"
    await peer.send(b"67890")
    assert await rfile.read1(2) == b"67"
    assert await rfile.read1(100) == b"890"
    peer.finish()
    assert await rfile.read1() == b""
    assert await rfile.read1(5) == b""


async def test_readinto_fills_the_buffer_and_less_only_at_the_end(pair: Connection) -> None:
    rfile, peer, _ = pair
    buffer = bytearray(b"......")
    await peer.send(b"12345678")
    peer.finish()
    assert await rfile.readinto(memoryview(buffer)[1:5]) == 4
    assert buffer == b".1234."
    assert await rfile.readinto(buffer) == 4
    assert buffer == b"56784."
    assert await rfile.readinto(buffer) == 0


async def test_cancelled_readinto_keeps_what_had_arrived(pair: Connection) -> None:
    rfile, peer, _ = pair
    buffer = bytearray(8)
    task = asyncio.create_task(rfile.readinto(buffer))
    await asyncio.sleep(0)
    await peer.send(b"1234")
    await until(lambda: len(rfile._buffer) == 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await peer.send(b"5678")
    assert await rfile.readinto(buffer) == 8
    assert buffer == b"12345678"


async def test_readinto_what_cannot_be_written_takes_nothing(pair: Connection) -> None:
    rfile, peer, _ = pair
    await peer.send(b"1234")
    with pytest.raises(TypeError, match="can be written"):
        await rfile.readinto(b"....")
    assert await rfile.read1() == b"1234"


async def test_wrong_arguments_are_told(pair: Connection) -> None:
    rfile, _, connection = pair
    with pytest.raises(ValueError, match="separator must have at least one byte"):
        await rfile.readuntil(b"")
    with pytest.raises(ValueError, match="must not be negative, and is -1"):
        await rfile.readexactly(-1)
    assert rfile.fileno() == connection.fileno()


async def test_segments_are_no_larger_than_asked_for() -> None:
    async with connected() as (connection, peer):
        rfile = reader_of(connection, segment_size=4)
        await peer.send(b"123456789\n")
        assert await rfile.read1() == b"1234"
        assert await rfile.readline() == b"56789\n"


# Two readers, and the socket's own methods


@pytest.mark.parametrize(
    "second",
    [
        lambda rfile: rfile.readline(),
        lambda rfile: rfile.readuntil(b"\n"),
        lambda rfile: rfile.readexactly(1),
        lambda rfile: rfile.read(1),
        lambda rfile: rfile.read(),
        lambda rfile: rfile.read1(),
        lambda rfile: rfile.readinto(bytearray(1)),
        lambda rfile: anext(rfile),
    ],
)
async def test_second_reader_is_told_and_the_first_goes_on(
    pair: Connection, second: Callable[[SocketReader], Awaitable[object]]
) -> None:
    rfile, peer, _ = pair
    first = await started(rfile.readline())
    await peer.send(b"beg")
    await until(lambda: len(rfile._buffer) > 0)
    with pytest.raises(RuntimeError, match="another task is reading from this connection"):
        await second(rfile)
    await peer.send(b"un\n")
    assert await first == b"begun\n"


async def test_file_and_socket_cannot_be_read_at_once(pair: Connection) -> None:
    rfile, peer, connection = pair
    first = await started(connection.recv(100))
    with pytest.raises(RuntimeError, match="another task is reading"):
        await rfile.readline()
    await peer.send(b"for the socket")
    assert await first == b"for the socket"
    second = await started(rfile.readline())
    with pytest.raises(RuntimeError, match="another task is receiving"):
        await connection.recv(100)
    await peer.send(b"for the file\n")
    assert await second == b"for the file\n"


async def test_recv_does_not_see_what_the_file_has_buffered(pair: Connection) -> None:
    rfile, peer, connection = pair
    await peer.send(b"line\nbuffered")
    assert await rfile.readline() == b"line\n"
    await peer.send(b"later")
    assert await connection.recv(100) == b"later"
    assert await rfile.read1() == b"buffered"


async def test_reader_of_a_closed_socket_gets_an_error(pair: Connection) -> None:
    rfile, peer, connection = pair
    task = await started(rfile.readline())
    connection.close()
    with pytest.raises(OSError, match="closed while a task was waiting"):
        await task
    with pytest.raises(OSError, match="Bad file descriptor"):
        await rfile.readline()
    assert await peer.receive_all() == b""


async def test_reset_by_the_peer_is_an_error_after_what_arrived() -> None:
    async with connected(tcp_pair()) as (connection, peer):
        rfile = reader_of(connection)
        await peer.send(b"line\n")
        assert await rfile.readline() == b"line\n"
        task = await started(rfile.readline())
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.sock.close()
        with pytest.raises(ConnectionResetError):
            await task


# Nobody is starved


@pytest.mark.parametrize("name", ["readline", "anext", "readuntil", "readexactly", "read", "read1"])
async def test_others_run_while_the_buffer_serves_many_reads(pair: Connection, name: str) -> None:
    rfile, peer, _ = pair
    await peer.send(b"x\n" * 16_000)
    assert await rfile.read1(2) == b"x\n"
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    asyncio.get_running_loop().call_soon(turn)
    methods: dict[str, Callable[[], Awaitable[bytes]]] = {
        "readline": rfile.readline,
        "anext": lambda: anext(rfile),
        "readuntil": rfile.readuntil,
        "readexactly": lambda: rfile.readexactly(2),
        "read": lambda: rfile.read(2),
        "read1": lambda: rfile.read1(2),
    }
    method = methods[name]
    for _ in range(15_000):
        assert await method() == b"x\n"
    assert turns > 10


async def test_reader_that_gave_way_is_told_when_another_has_begun(pair: Connection) -> None:
    rfile, peer, connection = pair
    connection._credit = 0
    first = asyncio.create_task(rfile.readline())
    second = asyncio.create_task(rfile.readline())
    with pytest.raises(RuntimeError, match="another task is reading"):
        await first
    await peer.send(b"line\n")
    assert await second == b"line\n"


async def test_handler_reads_what_a_real_client_sends_in_pieces() -> None:
    class Handler(StreamRequestHandler):
        async def handle(self) -> None:
            head = await self.rfile.readuntil(b"\r\n\r\n")
            body = await self.rfile.readexactly(int(head.split(b":")[1]))
            rest = [line async for line in self.rfile]
            await self.wfile.write(repr((head, body, rest)).encode())

    async with TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in (b"length: 5\r", b"\n\r", b"\n12", b"345a\nb", b"\nc"):
                await client.send(part)
            client.finish()
            answer = await client.receive_all()
    assert answer == repr((b"length: 5\r\n\r\n", b"12345", [b"a\n", b"b\n", b"c"])).encode()

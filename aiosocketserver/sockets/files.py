"""`rfile` and `wfile` of a stream handler: buffered lines and blocks over its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import LimitExceeded
from .credit import LINE_COST, TURN_CREDIT
from .receive_buffer import ReceiveBuffer
from .stream import StreamSocket
from .waiter import GIVE_WAY

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class SocketReader:
    """The buffered side of a connection that a handler reads: its `rfile`.

    The methods of `io.BufferedReader`, awaited, with asyncio's `readexactly` and
    `readuntil`. A call that is cancelled or times out keeps what had arrived for the
    next one. Bytes in this buffer are not seen by the socket's own `recv`, as with
    `socket.makefile`. One task at a time may read.

    A line may have `max_line_size` bytes, with its end, and a block `max_block_size`;
    a longer one is a `LimitExceeded`, which takes nothing: the connection stays usable
    and `read1` gets at what arrived. Left to itself, the error ends the connection.

    Instance variables:

    - max_line_size, max_block_size: the server's, in bytes
    """

    __slots__ = ("_buffer", "_segment_size", "_socket", "max_block_size", "max_line_size")

    def __init__(
        self,
        sock: StreamSocket,
        *,
        segment_size: int,
        max_line_size: int,
        max_block_size: int,
    ) -> None:
        self._socket = sock
        self._buffer = sock._unread = ReceiveBuffer()
        self._segment_size = segment_size
        self.max_line_size = max_line_size
        self.max_block_size = max_block_size

    def __aiter__(self) -> SocketReader:
        return self

    async def __anext__(self) -> bytes:
        # `readline` once more, and the socket's `recv`: the most used way to read, without
        # coroutines in between (docs/decisions/0012-cost-of-a-request.md).
        sock, buffer = self._socket, self._buffer
        if sock._receiving or sock._credit <= 0:
            await self._turn()
        sock._credit -= LINE_COST
        limit = self.max_line_size
        sock._receiving = True
        try:
            line = buffer.take_until(b"\n", limit)
            while line is None:
                if (data := sock._try_recv(self._segment_size)) is None:
                    await sock._input()
                elif data:
                    line = buffer.feed_until(data, b"\n", limit)
                elif buffer:
                    return buffer.take_all()
                else:
                    raise StopAsyncIteration
        except OverflowError:
            raise self._too_long("line", "max_line_size", limit) from None
        finally:
            sock._receiving = False
        return line

    async def readline(self, size: int = -1) -> bytes:
        """The next line with its end; without one, the rest, when the peer has closed.

        With `size`, at most that many bytes: a longer line comes in pieces, as from
        `io.BufferedReader.readline`. Without it, a line of more than `max_line_size`
        bytes raises LimitExceeded.
        """
        sock, buffer = self._socket, self._buffer
        if sock._receiving or sock._credit <= 0:
            await self._turn()
        sock._credit -= LINE_COST
        limit = self.max_line_size if size < 0 else size
        if not limit:
            return b""
        sock._receiving = True
        try:
            line = buffer.take_until(b"\n", limit)
            while line is None:
                if (data := sock._try_recv(self._segment_size)) is None:
                    await sock._input()
                elif data:
                    line = buffer.feed_until(data, b"\n", limit)
                else:
                    return buffer.take_all()
        except OverflowError:
            if size < 0:
                raise self._too_long("line", "max_line_size", limit) from None
            return buffer.take(size)
        finally:
            sock._receiving = False
        return line

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        """The next bytes up to and with `separator`.

        Raises LimitExceeded when they are more than `max_line_size`, and
        asyncio.IncompleteReadError, with what there was, when the peer closes before.
        """
        if not separator:
            raise ValueError("separator must have at least one byte")
        await self._begin()
        limit = self.max_line_size
        try:
            while (block := self._buffer.take_until(separator, limit)) is None:
                if not await self._fill():
                    raise self._incomplete(None)
        except OverflowError:
            raise self._too_long("line", "max_line_size", limit) from None
        return block

    async def readexactly(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises LimitExceeded when `size` is above `max_block_size` (it often comes from
        the peer), and asyncio.IncompleteReadError, with what there was, when the peer
        closes before.
        """
        if size < 0:
            raise ValueError(f"size must not be negative, and is {size}")
        self._check_block(size)
        await self._begin()
        while (block := self._buffer.take_exactly(size)) is None:
            if not await self._fill():
                raise self._incomplete(size)
        return block

    async def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes, fewer only when the peer closes before.

        Without a size, everything until the peer closes. Raises LimitExceeded for more
        than `max_block_size` bytes.
        """
        if size is not None and size >= 0:
            self._check_block(size)
            await self._begin()
            while (block := self._buffer.take_exactly(size)) is None:
                if not await self._fill():
                    return self._buffer.take(size)
            return block
        await self._begin()
        self._check_block(len(self._buffer))
        while await self._fill():
            self._check_block(len(self._buffer))
        return self._buffer.take_all()

    async def read1(self, size: int = -1) -> bytes:
        """What is there, at most `size` bytes; waits only when nothing is; `b""` at the end."""
        await self._begin()
        if size == 0 or (not self._buffer and not await self._fill()):
            return b""
        return self._buffer.take(size) if size > 0 else self._buffer.take_all()

    async def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer`, less only when the peer closes before; how many bytes.

        Raises LimitExceeded when it is larger than `max_block_size`.
        """
        view = memoryview(buffer).cast("B")
        if view.readonly:
            raise TypeError("readinto() needs a buffer that can be written, as a bytearray")
        # Nothing is put there before all has come: a cancellation would lose it.
        block = await self.read(len(view))
        view[: len(block)] = block
        return len(block)

    async def _begin(self) -> None:
        """What each method does first; `readline`, the one that is called most, by itself."""
        if self._socket._receiving or self._socket._credit <= 0:
            await self._turn()
        self._socket._credit -= LINE_COST

    async def _fill(self) -> bool:
        """Add what arrives to the buffer; False when the peer has closed."""
        return self._buffer.feed(await self._socket.recv(self._segment_size))

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._socket.fileno()

    async def _turn(self) -> None:
        """Let others run before more is taken, when a cancellation can lose nothing."""
        if not self._socket._receiving:
            self._socket._credit = TURN_CREDIT
            await GIVE_WAY
        if self._socket._receiving:
            raise RuntimeError(
                "another task is reading from this connection: only one may at a time"
            )

    def _check_block(self, size: int) -> None:
        if size > self.max_block_size:
            raise self._too_long(f"block of {size} bytes", "max_block_size", self.max_block_size)

    def _too_long(self, what: str, option: str, limit: int) -> LimitExceeded:
        return self._socket._mark(
            LimitExceeded(f"a {what} is longer than the server's {option}, {limit} bytes")
        )

    def _incomplete(self, expected: int | None) -> asyncio.IncompleteReadError:
        rest = self._buffer.take_all()
        return self._socket._mark(asyncio.IncompleteReadError(rest, expected))


class SocketWriter:
    """The buffered side of a connection that a handler writes: its `wfile`.

    Small writes are joined, and leave at the latest when the handler waits for input,
    when 64 KiB are pending (then `write` waits until the kernel has them), at
    `flush()`, at the end of this turn of the loop, and when the handler ends, also by
    an exception. They belong to the socket: whatever else is sent on it, or ends it,
    lets them go first. An error of a write that left later is raised by the next
    `write` or `flush`, at the latest at the end of the handler.

    Any number of tasks may write: each write stays whole, in the order of the calls.
    A write or flush that is cancelled or times out leaves what is unsent pending.
    """

    __slots__ = ("_socket",)

    def __init__(self, sock: StreamSocket) -> None:
        self._socket = sock

    async def write(self, data: ReadableBuffer) -> int:
        """Write all of `data`, which is copied unless it is `bytes`; how many bytes."""
        block = data if type(data) is bytes else bytes(memoryview(data))
        if self._socket._write(block):
            await self._socket._flush()
        return len(block)

    async def writelines(self, lines: Iterable[ReadableBuffer]) -> None:
        """Write each of `lines`, without anything between them."""
        await self.write(b"".join(lines))

    async def flush(self) -> None:
        """Return when the kernel has everything that was written."""
        await self._socket._flush()

    def fileno(self) -> int:
        """The descriptor of the socket."""
        return self._socket.fileno()

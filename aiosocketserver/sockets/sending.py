"""The sending half of a stream socket: `send` and its kin, as in `socket.socket`, awaited."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING

from .output import CLOSED, WRITE_LIMIT, Output
from .unix import rights

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_SENDFILE_BLOCK = 1024 * 1024
# What sendfile(2) says of a file whose file system cannot do it.
_CANNOT_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS})


class SendingSide(Output):
    """A non-blocking stream socket that is sent on."""

    __slots__ = ()

    async def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send what the kernel takes of `data` at once, waiting until it takes any; how much."""
        self._begin_sending()
        try:
            deadline = self._deadline()
            while (sent := self._try_send(self._sock.send, data, flags)) is None:
                await self._output(deadline)
            return sent
        finally:
            self._end_sending()

    async def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
    ) -> int:
        """Send what the kernel takes of several buffers, and ancillary data; how much."""
        message = list(buffers), list(ancdata), flags
        self._begin_sending()
        try:
            deadline = self._deadline()
            while (sent := self._try_send(self._sock.sendmsg, *message)) is None:
                await self._output(deadline)
            return sent
        finally:
            self._end_sending()

    async def send_fds(
        self, buffers: Iterable[ReadableBuffer], fds: Iterable[int], flags: int = 0
    ) -> int:
        """Send bytes, at least one, and descriptors over a Unix socket: see `socket.send_fds`.

        Returns how many bytes the kernel has taken; the descriptors went with the
        first. They stay open here.
        """
        return await self.sendmsg(buffers, [rights(fds)], flags)

    async def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Return when the kernel has all of `data`. The time-out is for the whole call."""
        rest: bytes | memoryview = data if type(data) is bytes else memoryview(data).cast("B")
        self._check_sendable()
        # Most often the kernel takes it all at once, and nobody can come in between.
        if (sent := self._try_send(self._sock.send, rest, flags)) != len(rest):
            await self._finish_sendall(rest, sent, flags)

    async def _finish_sendall(self, rest: bytes | memoryview, sent: int | None, flags: int) -> None:
        """`sendall` of what its first try has left."""
        self._begin_sending()
        try:
            await self._send_rest(rest, sent, flags)
        finally:
            self._end_sending()

    async def _send_rest(self, rest: bytes | memoryview, sent: int | None, flags: int) -> None:
        """Send what the first try, which took `sent` bytes, has left of `rest`."""
        deadline = self._deadline()
        while sent != len(rest):
            if sent is None:
                await self._output(deadline)
            else:
                rest = memoryview(rest)[sent:]
            sent = self._try_send(self._sock.send, rest, flags)

    async def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send a file opened in binary mode, from `offset`, at most `count` bytes; how many.

        Uses `os.sendfile` for a regular file, whose position is after the last byte
        sent on return, also when it raises (as in `socket.socket.sendfile`); other
        files are read block by block. The time-out is for each block. Reading a file
        blocks the loop as long as the disk takes.
        """
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError(f"file should be opened in binary mode, not {file.mode!r}")
        if count is not None and count <= 0:
            raise ValueError(f"count must be positive or None, not {count!r}")
        try:
            status = os.fstat(file.fileno())
        except (AttributeError, OSError):
            return await self._send_blocks(file, offset, count)
        if self._tls is not None:
            # The kernel does not encrypt.
            return await self._send_blocks(file, offset, count)
        # A file of /proc says that it has no bytes and gives some when it is read.
        if not (stat.S_ISREG(status.st_mode) and status.st_size):
            return await self._send_blocks(file, offset, count)
        total = 0
        self._begin_sending()
        try:
            while count is None or total < count:
                block = _SENDFILE_BLOCK if count is None else min(_SENDFILE_BLOCK, count - total)
                deadline = self._deadline()
                while (sent := self._try_send(self._sendfile, file, offset + total, block)) is None:
                    await self._output(deadline)
                if not sent:
                    break
                total += sent
            return total
        except OSError as error:
            if total or error.errno not in _CANNOT_SENDFILE:
                raise
        finally:
            self._end_sending()
            if total:
                file.seek(offset + total)
        return await self._send_blocks(file, offset, count)

    def _sendfile(self, file: IO[bytes], offset: int, count: int) -> int:
        # Descriptors are looked up at each call: one kept over a wait could be
        # somebody else's by now.
        return os.sendfile(self._sock.fileno(), file.fileno(), offset, count)

    async def _send_blocks(self, file: IO[bytes], offset: int, count: int | None) -> int:
        total = 0
        self._begin_sending()
        try:
            if offset:
                file.seek(offset)
            while count is None or total < count:
                size = WRITE_LIMIT if count is None else min(WRITE_LIMIT, count - total)
                if not (block := file.read(size)):
                    break
                await self._send_rest(block, self._try_send(self._sock.send, block, 0), 0)
                total += len(block)
            return total
        finally:
            self._end_sending()

    def _check_sendable(self) -> None:
        if self._sending:
            raise self._in_use("sending on")
        if self._write_error is not None or self._half_close_requested:
            self._refuse_to_send()

    def _begin_sending(self) -> None:
        self._check_sendable()
        self._sending = True
        # What is written before now leaves first, what is written later leaves after.
        self._queue.hold()

    def _end_sending(self) -> None:
        self._sending = False
        if self._sock is CLOSED:
            return
        queue = self._queue
        if self._tls is not None and queue.sent == queue.limit:
            # A send that was cancelled or timed out: what was encrypted of it leaves.
            self._count_sent(self._tls.disown())
        queue.release()
        if queue.queued != queue.sent:
            self._flush_soon()
        elif self._half_close_requested:
            self._half_close()

    @staticmethod
    def _in_use(what: str) -> RuntimeError:
        return RuntimeError(
            f"another task is {what} this socket: only one may at a time, or nobody could tell "
            "whose bytes are whose (wfile.write() may be called by any number of tasks)"
        )

"""The sending half of a stream socket: `send` and its kin, and the joined writes of a `wfile`.

Joined writes belong to the socket, so that every other way to send, and every way to
end, lets them go first (docs/decisions/0004-joined-writes.md).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ._plain_socket import PlainSocket
from ._send_queue import SendQueue
from ._unix import rights
from ._waiter import GIVE_WAY, Waiter, WaitTimeout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What one connection may do before the others get their turn: bytes moved, and a
# price for each call, so that a client that blasts a handler doing recv(64) is no
# better off than one that sends large blocks (design D3: a 10 ms timer was 4 s late).
TURN_CREDIT = 256 * 1024
CALL_COST = 2 * 1024
LINE_COST = 512

# Written bytes that may wait in the process; a `write` that goes above waits itself.
WRITE_LIMIT = 64 * 1024

_SENDFILE_BLOCK = 1024 * 1024
# What sendfile(2) says of a file whose file system cannot do it.
_CANNOT_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS})

# Takes the place of the real socket in one that was closed: every method of it raises
# the OSError (EBADF) that a closed socket.socket raises.
CLOSED = socket.socket()
CLOSED.close()


class SendingSide(PlainSocket):
    """A non-blocking stream socket that is sent on."""

    __slots__ = (
        "_credit",
        "_flush_scheduled",
        "_flush_waiters",
        "_half_close_requested",
        "_queue",
        "_resuming",
        "_sending",
        "_timeout",
        "_write_error",
        "_write_timeout",
        "_write_waiter",
        "_writer_registered",
    )

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(sock, loop)
        self._timeout: float | None = None
        # Shared with the receiving half: what this connection may do in one turn.
        self._credit = TURN_CREDIT
        # Set while a task runs inside a callback that flushes when it returns.
        self._resuming = False
        self._queue = SendQueue()
        self._write_waiter: Waiter | None = None
        self._write_timeout: WaitTimeout | None = None
        self._writer_registered = False
        self._sending = False
        self._write_error: OSError | None = None
        self._half_close_requested = False
        self._flush_scheduled = False
        self._flush_waiters: list[tuple[int, asyncio.Future[None]]] | None = None

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
        if (sent := self._try_send(self._sock.send, rest, flags)) == len(rest):
            return
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
        queue.release()
        if queue.queued != queue.sent:
            self._flush_soon()
        elif self._half_close_requested:
            self._half_close()

    def _refuse_to_send(self) -> NoReturn:
        if self._write_error is not None:
            # Each caller gets an error of its own: one object raised twice would
            # gather the tracebacks of both.
            raise self._mark(OSError(*self._write_error.args)) from self._write_error
        raise self._mark(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def _try_send(self, send: Callable[..., int], *args: Any) -> int | None:
        """The result of one system call, or None when it is time to wait.

        `send` is looked up for each try: a method kept over a wait would be that of a
        socket which has been closed meanwhile, and lingers, or is somebody else's.
        """
        queue = self._queue
        if queue.sent != queue.limit:
            self._send_pending()
            self._check_broken()
            if queue.sent != queue.limit:
                return None
        if self._credit <= 0:
            return None
        try:
            sent = send(*args)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._mark(error) from None
        self._credit -= sent + CALL_COST
        return sent

    def _check_broken(self) -> None:
        if self._write_error is not None:
            self._refuse_to_send()

    def _output(self, deadline: float | None) -> Awaitable[None]:
        """What to await before another try to send."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        if self._write_waiter is None:
            self._write_waiter = Waiter(self._loop)
        if deadline is not None:
            if self._timeout == 0:
                self._credit -= CALL_COST
                raise self._mark(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            if self._write_timeout is None:
                self._write_timeout = WaitTimeout(self._loop, self._write_waiter, self._timed_out)
            self._write_timeout.start(deadline)
        elif self._write_timeout is not None:
            self._write_timeout.stop()
        self._register_writer()
        return self._write_waiter

    def _deadline(self) -> float | None:
        return None if self._timeout is None else self._loop.time() + self._timeout

    def _register_writer(self) -> None:
        if not self._writer_registered:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
            self._writer_registered = True

    def _on_writable(self) -> None:
        self._send_pending()
        waiter = self._write_waiter
        if waiter is not None and self._queue.sent == self._queue.limit:
            self._credit = TURN_CREDIT
            waiter.resume()
        # Looked up again: the task may have gone on to close the socket.
        wanted = self._queue.sent != self._queue.limit or (waiter is not None and waiter.waiting)
        if self._writer_registered and not wanted:
            self._loop.remove_writer(self._sock.fileno())
            self._writer_registered = False

    # Joined writes: what `wfile.write` leaves here

    async def _flush(self) -> None:
        """Return when the kernel has everything that was written before this call."""
        self._check_broken()
        position = self._queue.queued
        self._send_pending()
        self._check_broken()
        if self._queue.sent < position:
            if self._timeout == 0:
                self._credit -= CALL_COST
                if self._credit <= 0:
                    self._credit = TURN_CREDIT
                    await GIVE_WAY
                raise self._mark(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            await self._flushed(position)
        elif self._credit <= 0:
            self._credit = TURN_CREDIT
            await GIVE_WAY

    async def _flushed(self, position: int) -> None:
        entry = (position, self._loop.create_future())
        if self._flush_waiters is None:
            self._flush_waiters = []
        self._flush_waiters.append(entry)
        scope = asyncio.timeout(self._timeout)
        try:
            async with scope:
                await entry[1]
        except TimeoutError as error:
            raise (self._timed_out() if scope.expired() else self._mark(error)) from None
        finally:
            self._flush_waiters.remove(entry)

    def _write(self, block: bytes) -> bool:
        """Put one write behind the others; True when the writer has to wait for `_flush`."""
        if self._sock is CLOSED:
            raise self._mark(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        if self._write_error is not None or self._half_close_requested:
            self._refuse_to_send()
        pending = self._queue.append(block)
        self._credit -= len(block) + LINE_COST
        if pending >= WRITE_LIMIT or self._credit <= 0:
            return True
        if not self._resuming:
            self._flush_soon()
        return False

    def _flush_soon(self) -> None:
        if not (self._flush_scheduled or self._writer_registered):
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_at_end_of_turn)

    def _flush_at_end_of_turn(self) -> None:
        self._flush_scheduled = False
        self._send_pending()

    def _send_pending(self) -> None:
        """Send what the kernel takes now; the writer callback goes on with the rest."""
        queue = self._queue
        if queue.sent == queue.limit:
            return
        try:
            queue.send(self._sock.send)
        except BlockingIOError:
            self._register_writer()
        except OSError as error:
            # Raised at the next write, flush or finish: nobody waits for it here.
            self._write_error = error.with_traceback(None)
            queue.clear()
        if self._flush_waiters:
            self._wake_flush_waiters()
        if self._half_close_requested and not queue and not self._sending:
            self._half_close()

    def _wake_flush_waiters(self) -> None:
        for position, future in self._flush_waiters or ():
            if future.done():
                continue
            if self._write_error is not None:
                future.set_exception(self._mark(OSError(*self._write_error.args)))
            elif position <= self._queue.sent:
                future.set_result(None)

    def _half_close(self) -> None:
        if self._write_error is None:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._write_error = error.with_traceback(None)

    @staticmethod
    def _in_use(what: str) -> RuntimeError:
        return RuntimeError(
            f"another task is {what} this socket: only one may at a time, or nobody could tell "
            "whose bytes are whose (wfile.write() may be called by any number of tasks)"
        )

    def _timed_out(self) -> OSError:
        return self._mark(TimeoutError("timed out"))

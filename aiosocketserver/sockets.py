"""The socket that a coroutine handler holds: socket's own method names, awaited.

Each method tries the system call first and waits for readiness only when it would
block; no transport and no buffer is in between (docs/decisions/0001-no-transports.md).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterable
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast, overload

from ._send_queue import SendQueue
from ._waiter import GIVE_WAY, Waiter, WaitTimeout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from .lingering import LingeringSockets

E = TypeVar("E", bound=Exception)

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
_CLOSED = socket.socket()
_CLOSED.close()


def is_error_of(error: BaseException, connection: object) -> bool:
    """Whether `error` was raised by this very connection, and not by another of the handler's.

    A group counts when all of its errors do. Errors of a legacy handler's
    `socket.socket` bear no mark: there, the state of the connection has to tell.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(is_error_of(part, connection) for part in group.exceptions)
    return getattr(error, "_aiosocketserver_origin", None) is connection


class StreamSocket:
    """A connected stream socket whose blocking methods are coroutines.

    `recv`, `recv_into`, `send`, `sendall`, `sendmsg` and `sendfile` are awaited; what
    does not block is as in `socket.socket`. Errors are its OSErrors, and a time-out
    set with `settimeout` raises TimeoutError. One task may receive while another one
    sends; two that receive, or two that send, get a RuntimeError (the `write` of a
    handler's `wfile` may be called by any number).

    A cancelled `recv` loses no byte: the next one gets it. A cancelled `sendall`,
    `sendmsg` or `sendfile` has sent an unknown part. When another task closes the
    socket, one that waits in it gets an OSError (EBADF).

    All methods belong to the thread of the loop that the server runs on.
    """

    __slots__ = (
        "__weakref__",
        "_credit",
        "_flush_scheduled",
        "_flush_waiters",
        "_half_close_requested",
        "_input_expected",
        "_linger",
        "_lingering",
        "_loop",
        "_peer_closed",
        "_queue",
        "_read_timeout",
        "_read_waiter",
        "_reader_registered",
        "_receiving",
        "_resuming",
        "_sending",
        "_sock",
        "_timeout",
        "_write_error",
        "_write_timeout",
        "_write_waiter",
        "_writer_registered",
    )

    def __init__(self, sock: socket.socket, lingering: LingeringSockets) -> None:
        if type(sock).recv is not socket.socket.recv:
            raise TypeError(
                f"a coroutine handler needs a plain socket.socket, and get_request() returned "
                f"a {type(sock).__qualname__}, whose recv() may block the loop"
            )
        sock.setblocking(False)
        self._sock = sock
        self._lingering = lingering
        self._loop = lingering.loop
        self._timeout: float | None = None
        self._credit = TURN_CREDIT
        self._linger = True
        # Set while a task runs inside `_on_readable`, which flushes when it returns.
        self._resuming = False

        self._read_waiter = Waiter(self._loop)
        self._read_timeout: WaitTimeout | None = None
        self._reader_registered = False
        self._receiving = False
        # False after a short read: the next one would only tell that it would block.
        self._input_expected = True
        self._peer_closed = False

        self._queue = SendQueue()
        self._write_waiter: Waiter | None = None
        self._write_timeout: WaitTimeout | None = None
        self._writer_registered = False
        self._sending = False
        self._write_error: OSError | None = None
        self._half_close_requested = False
        self._flush_scheduled = False
        self._flush_waiters: list[tuple[int, asyncio.Future[None]]] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._sock!r}>"

    # Receiving

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive at most `bufsize` bytes; `b""` when the peer has closed its side."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    try:
                        data = self._sock.recv(bufsize, flags)
                    except BlockingIOError as error:
                        self._no_input(error, flags)
                    except OSError as error:
                        raise self._mark(error) from None
                    else:
                        count = len(data)
                        self._credit -= count + CALL_COST
                        if count < bufsize:
                            self._short_read(count, flags)
                        return data
                await self._input()
        finally:
            self._receiving = False

    async def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into `buffer`, at most `nbytes` bytes or as many as it holds; how many came."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    try:
                        count = self._sock.recv_into(buffer, nbytes, flags)
                    except BlockingIOError as error:
                        self._no_input(error, flags)
                    except OSError as error:
                        raise self._mark(error) from None
                    else:
                        self._credit -= count + CALL_COST
                        if count < (nbytes or memoryview(buffer).nbytes):
                            self._short_read(count, flags)
                        return count
                await self._input()
        finally:
            self._receiving = False

    @staticmethod
    def _in_use(what: str) -> RuntimeError:
        return RuntimeError(
            f"another task is {what} this socket: only one may at a time, or nobody could tell "
            "whose bytes are whose (wfile.write() may be called by any number of tasks)"
        )

    def _short_read(self, count: int, flags: int) -> None:
        # Nothing is left in the kernel, unless the call only peeked (flags). One that
        # may not wait has to look each time.
        self._input_expected = flags != 0 or self._timeout == 0
        self._peer_closed = not count

    def _no_input(self, error: BlockingIOError, flags: int) -> None:
        if self._timeout == 0 or flags & socket.MSG_DONTWAIT:
            # It has its price, or who tries again and again would keep the loop.
            self._credit -= CALL_COST
            raise self._mark(error) from None
        self._input_expected = False

    def _input(self) -> Awaitable[None]:
        """What to await before another try to receive."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        if self._queue.queued != self._queue.sent:
            self._send_pending()
        if self._timeout is not None:
            self._start_read_timeout(self._timeout)
        elif self._read_timeout is not None:
            self._read_timeout.stop()
        if not self._reader_registered:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)
            self._reader_registered = True
        return self._read_waiter

    def _start_read_timeout(self, timeout: float) -> None:
        if self._read_timeout is None:
            self._read_timeout = WaitTimeout(self._loop, self._read_waiter, self._timed_out)
        self._read_timeout.start(self._loop.time() + timeout)

    def _on_readable(self) -> None:
        self._input_expected = True
        self._credit = TURN_CREDIT
        # While the task runs, `_write` need not see to it that its bytes leave.
        self._resuming = True
        try:
            resumed = self._read_waiter.resume()
        finally:
            self._resuming = False
        if not resumed:
            # Registered for the life of many waits, until input comes that nobody
            # waits for: each registration is a system call (design D3).
            self._loop.remove_reader(self._sock.fileno())
            self._reader_registered = False
            return
        queue = self._queue
        if queue.queued != queue.sent and not self._writer_registered:
            self._send_pending()

    # Sending

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

    async def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Return when the kernel has all of `data`. The time-out is for the whole call."""
        rest: bytes | memoryview = data if type(data) is bytes else memoryview(data).cast("B")
        self._begin_sending()
        try:
            deadline = self._deadline()
            while (sent := self._try_send(self._sock.send, rest, flags)) != len(rest):
                if sent is None:
                    await self._output(deadline)
                else:
                    rest = memoryview(rest)[sent:]
        finally:
            self._end_sending()

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
        if offset:
            file.seek(offset)
        total = 0
        while count is None or total < count:
            size = WRITE_LIMIT if count is None else min(WRITE_LIMIT, count - total)
            if not (block := file.read(size)):
                break
            await self.sendall(block)
            total += len(block)
        return total

    def _begin_sending(self) -> None:
        if self._sending:
            raise self._in_use("sending on")
        if self._write_error is not None or self._half_close_requested:
            self._check_writable()
        self._sending = True
        # What is written before now leaves first, what is written later leaves after.
        self._queue.hold()

    def _end_sending(self) -> None:
        self._sending = False
        if self._sock is _CLOSED:
            return
        queue = self._queue
        queue.release()
        if queue.queued != queue.sent:
            self._flush_soon()
        elif self._half_close_requested:
            self._half_close()

    def _check_writable(self) -> None:
        if self._write_error is not None:
            # Each caller gets an error of its own: one object raised twice would
            # gather the tracebacks of both.
            raise self._mark(OSError(*self._write_error.args)) from self._write_error
        if self._half_close_requested:
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
            self._check_writable()

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

    # Joined writes: what `wfile.write` leaves here. They belong to the socket, so that
    # every other way to send, and every way to end, lets them go first.

    async def _flush(self) -> None:
        """Return when the kernel has everything that was written before this call."""
        self._check_broken()
        position = self._queue.queued
        self._send_pending()
        self._check_broken()
        if self._queue.sent < position:
            if self._timeout == 0:
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

    def _write(self, data: ReadableBuffer) -> bool:
        """Put one write behind the others; True when the writer has to wait for `_flush`."""
        if self._sock is _CLOSED:
            raise self._mark(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        if self._write_error is not None or self._half_close_requested:
            self._check_writable()
        block = data if type(data) is bytes else bytes(memoryview(data))
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

    # Ending

    def shutdown(self, how: int) -> None:
        """Shut down one side or both, as `socket.socket.shutdown` does.

        Bytes that were written before leave before: when the kernel does not take
        them now, the sending side is shut down as soon as it has.
        """
        try:
            if how == socket.SHUT_RD or self._sock is _CLOSED:
                self._sock.shutdown(how)
                return
            if how == socket.SHUT_RDWR:
                self._sock.shutdown(socket.SHUT_RD)
            self._send_pending()
            self._half_close_requested = True
            if not self._queue and not self._sending:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            # ENOTCONN when the peer has reset the connection.
            raise self._mark(error) from None

    def _half_close(self) -> None:
        if self._write_error is None:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._write_error = error.with_traceback(None)

    def close(self) -> None:
        """Close the socket; what was written and what the peer still sends are seen to.

        This object is closed on return, and a task that waits in it gets an OSError.
        The kernel's socket stays until the peer has everything and has closed too, or
        the server's `linger_timeout` has passed (see `aiosocketserver.lingering`);
        not when SO_LINGER was set.
        """
        sock = self._release()
        if sock is None:
            return
        # What a sendall() under way still holds back would come after a torn message.
        queue, self._queue = self._queue, SendQueue()
        broken = self._write_error is not None or (self._peer_closed and queue.sent == queue.limit)
        if broken or not self._linger:
            sock.close()
        else:
            self._lingering.close(sock, queue)

    def detach(self) -> int:
        """Give the descriptor away: it is no longer this object's to close.

        Raises BlockingIOError when bytes written before have not left yet: await
        `wfile.flush()` first.
        """
        self._send_pending()
        if self._queue:
            raise BlockingIOError(
                errno.EAGAIN,
                f"{len(self._queue)} bytes are written and not sent: await wfile.flush() first",
            )
        sock = self._release()
        return -1 if sock is None else sock.detach()

    def _abort(self) -> None:
        """Close now and drop what is pending: the server's last word to a stuck handler."""
        sock = self._release()
        if sock is not None:
            sock.close()

    def _release(self) -> socket.socket | None:
        """Let the loop and every waiting task go of the socket, and return it."""
        sock = self._sock
        if sock is _CLOSED:
            return None
        if self._reader_registered:
            self._loop.remove_reader(sock.fileno())
        if self._writer_registered:
            self._loop.remove_writer(sock.fileno())
        self._reader_registered = self._writer_registered = False
        self._sock = _CLOSED
        self._input_expected = True
        for timeout in (self._read_timeout, self._write_timeout):
            if timeout is not None:
                timeout.stop()
        self._read_timeout = self._write_timeout = None
        for waiter in (self._read_waiter, self._write_waiter):
            if waiter is not None and waiter.waiting:
                waiter.fail(self._closed_meanwhile())
        for _, future in self._flush_waiters or ():
            if not future.done():
                future.set_exception(self._closed_meanwhile())
        return sock

    def _closed_meanwhile(self) -> OSError:
        return self._mark(
            OSError(errno.EBADF, "the socket was closed while a task was waiting in it")
        )

    def _close_in_child(self) -> None:
        """In a forked child: let go of the descriptor and leave the loop alone."""
        self._sock.close()

    def _timed_out(self) -> OSError:
        return self._mark(TimeoutError("timed out"))

    def _mark(self, error: E) -> E:
        """Make the error recognisable as one of this connection (see `is_error_of`)."""
        error.__dict__["_aiosocketserver_origin"] = self
        return error

    # What does not block is as in socket.socket.

    def settimeout(self, value: float | None) -> None:
        """Seconds after which a wait raises TimeoutError; None for none; 0 never waits."""
        if value is not None and value < 0:
            raise ValueError(f"timeout must not be negative, and is {value!r}")
        # A wait under way keeps the time-out that it began with.
        self._timeout = value
        self._input_expected = True

    def gettimeout(self) -> float | None:
        """The time-out in seconds, or None."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` for True, `settimeout(0)` for False: as in `socket.socket`."""
        self.settimeout(None if flag else 0)

    def getblocking(self) -> bool:
        """Whether a method would wait."""
        return self._timeout != 0

    def fileno(self) -> int:
        """The descriptor, -1 when closed. The loop owns its readiness: do not register it."""
        return self._sock.fileno()

    def getpeername(self) -> Any:
        """The address of the peer."""
        try:
            return self._sock.getpeername()
        except OSError as error:
            # ENOTCONN when the peer has reset the connection.
            raise self._mark(error) from None

    def getsockname(self) -> Any:
        """The address of this side."""
        return self._sock.getsockname()

    @overload
    def getsockopt(self, level: int, optname: int) -> int: ...
    @overload
    def getsockopt(self, level: int, optname: int, buflen: int) -> bytes: ...
    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """A socket option: see setsockopt(2)."""
        return (
            self._sock.getsockopt(level, optname, buflen)
            if buflen
            else (self._sock.getsockopt(level, optname))
        )

    def setsockopt(self, level: int, optname: int, value: int | ReadableBuffer) -> None:
        """Set a socket option: see setsockopt(2). SO_LINGER makes `close` immediate."""
        self._sock.setsockopt(level, optname, value)
        if level == socket.SOL_SOCKET and optname == socket.SO_LINGER:
            self._linger = not self._sock.getsockopt(level, optname)

    @property
    def family(self) -> int:
        """The address family, as `socket.AF_INET`."""
        return self._sock.family

    @property
    def type(self) -> int:
        """The socket type, as `socket.SOCK_STREAM`."""
        return self._sock.type

    @property
    def proto(self) -> int:
        """The protocol number."""
        return self._sock.proto

"""The hot path of a stream socket: one try of a system call, and what to await before the next.

Whoever receives or sends tries, and awaits `_input()` or `_output()` when there was nothing: None.
The loop's callbacks run the task that waits (`Waiter`).

The compiled core (docs/compiled.md) has the usual case of `_try_recv`, `_try_recv_into`,
`_try_sendall`, `_input` and `_on_readable`; what is not usual it leaves to the methods here that
are named `_careful_...`, which without it are these methods.

What was written is joined here, and leaves before everything else that is sent, and before the
end of the connection (docs/decisions/0004-joined-writes.md).

For each connection there is one pair of counters and one queue, and neither a buffer nor a
transport between the handler and the kernel (0001). No wait registers anything with the loop
(0003), or arms a timer: where a time-out or the shutdown may end waits, the connection has
`Timers`, which `_input` and `_output` tell of each.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ..compiled import native
from .credit import CALL_COST, LINE_COST, TURN_CREDIT
from .flushes import Flushes
from .plain_socket import PlainSocket
from .send_queue import SendQueue
from .stream_fields import StreamFields
from .time_limits import TimeLimits
from .timers import Timers
from .traffic import Traffic
from .waiter import GIVE_WAY, Waiter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from .receive_buffer import ReceiveBuffer

R = TypeVar("R")

# Written bytes that may wait in the process; a `write` that goes above waits itself.
WRITE_LIMIT = 64 * 1024

# Takes the place of the real socket in one that was closed: every method of it raises
# the OSError (EBADF) that a closed socket.socket raises.
CLOSED = socket.socket()
CLOSED.close()

# Whole numbers: the enum's own operators take longer than the rest of a call.
_PEEK = int(socket.MSG_PEEK)
_NEVER_WAIT = int(socket.MSG_DONTWAIT)


class StreamCore(PlainSocket, StreamFields):
    """A non-blocking stream socket that is received from and sent on, one try at a time."""

    __slots__ = (
        "__weakref__",
        "_ends_when_draining",
        "_flush_scheduled",
        "_flushes",
        "_limits",
        "_opening",
        "_owner",
        "_queue",
        "_receiving",
        "_unread",
        "_write_waiter",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        limits: TimeLimits,
        owner: object,
        traffic: Traffic,
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._tls = None
        self._credit = TURN_CREDIT
        self._received = 0
        self._sent = 0
        self._traffic = traffic

        self._input_expected = True
        self._peer_closed = False
        self._receiving = False
        self._read_waiter = Waiter(loop)
        self._watch = None
        # What the rfile has received and nobody has read: the beginning of a message.
        self._unread: ReceiveBuffer | None = None

        self._queue = SendQueue()
        self._unsent = False
        self._sending = False
        self._write_error = None
        self._half_close_requested = False
        self._write_waiter: Waiter | None = None
        self._writer_registered = False
        self._resuming = False
        self._flush_scheduled = False
        self._flushes: Flushes | None = None

        self._limits = limits
        self._timers = Timers(limits) if limits.concern_input else None
        # The request that this connection serves, until it is closed.
        self._owner = owner
        self._answered = 0
        # How much was received before the first message, and when (0: when it was accepted).
        self._opening: tuple[int, float] = (0, 0.0)
        # What the handler has said, if it has, of whether that ends its waits.
        self._ends_when_draining: bool | None = None

    # Receiving

    def _careful_recv(self, bufsize: int, flags: int = 0) -> bytes | None:
        """What one system call gives; None when it would block, or may not be made now."""
        if not ((self._input_expected or flags) and self._credit > 0):
            return None
        try:
            data = self._sock.recv(bufsize, flags)
        except OSError as error:
            return self._recv_failed(error, flags)
        count = len(data)
        self._credit -= count + CALL_COST
        if not flags or not flags & _PEEK:
            self._received += count
            self._traffic.received += count
        if count < bufsize:
            # As _may_have_more, which would be one more call for each `recv`.
            timers, tls = self._timers, self._tls
            self._input_expected = (
                flags != 0
                or (timers is not None and timers.timeout == 0)
                or (tls is not None and tls.has_more)
            )
            self._peer_closed = not count
        return data

    def _careful_recv_into(self, buffer: WriteableBuffer, nbytes: int, flags: int) -> int | None:
        """How much one system call gives, or None, as from `_careful_recv`."""
        if not ((self._input_expected or flags) and self._credit > 0):
            return None
        try:
            count = self._sock.recv_into(buffer, nbytes, flags)
        except OSError as error:
            return None if self._recv_failed(error, flags) is None else 0
        self._count_received(count, flags)
        if count < (nbytes or memoryview(buffer).nbytes):
            self._input_expected = self._may_have_more(flags)
            self._peer_closed = not count
        return count

    def _recv_failed(self, error: OSError, flags: int = 0) -> bytes | None:
        """None when there is only to wait, `b""` when nobody waits any more; else it is raised."""
        try:
            if not isinstance(error, BlockingIOError):
                raise self._mark(error) from None
            timers = self._timers
            if flags & _NEVER_WAIT or (timers is not None and timers.timeout == 0):
                # Charge this call too: a handler that polls in a loop would never give way.
                self._credit -= CALL_COST
                raise self._mark(error) from None
        finally:
            # Its traceback refers to this frame: break the cycle.
            del error
        if timers is not None and timers.last_waits is not None and timers.is_last_wait_over(self):
            # The server shuts down.
            self._credit -= CALL_COST
            return b""
        self._input_expected = False
        return None

    def _count_received(self, count: int, flags: int) -> None:
        """Count what another call than `_try_recv`, which counts by itself, has received."""
        self._credit -= count + CALL_COST
        if not flags & _PEEK:
            self._received += count
            self._traffic.received += count

    def _may_have_more(self, flags: int) -> bool:
        """Whether more may be left behind a short read.

        The call may have peeked only (`flags`), TLS holds what it has decrypted, and a handler
        that never waits has to look each time.
        """
        return flags != 0 or self._never_waits or (self._tls is not None and self._tls.has_more)

    @property
    def _never_waits(self) -> bool:
        return self._timers is not None and self._timers.timeout == 0

    async def _receive(self, attempt: Callable[[], R | None], flags: int) -> R:
        """Try until there is input, or the end."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    received = attempt()
                    if received is not None:
                        return received
                await self._input()
        finally:
            self._receiving = False

    def _careful_input(self) -> Awaitable[None]:
        """What to await before another try to receive."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        if self._unsent:
            self._send_pending()
        timers = self._timers
        if timers is not None and timers.watches_input and not timers.begin_input(self):
            # For one more look at what has come, or the end.
            self._input_expected = True
            return GIVE_WAY
        if self._watch is None:
            self._watch_input()
        return self._read_waiter

    def _look_again(self) -> None:
        """Have the task that waits for input look whether there is some, or an end."""
        self._input_expected = True
        self._read_waiter.wake()

    def _is_in_a_message(self) -> bool:
        """Whether a part of a message is here: unread in the rfile, or of a TLS record."""
        return bool(self._unread) or (self._tls is not None and self._tls.in_a_record)

    def _watch_input(self) -> None:
        # A socket with an error is reported once by libuv, which then stops to watch it
        # (uv__poll_io), and uvloop tells nobody: who has read what came before a reset, and
        # waits for more, would wait for ever. But it lets go of the callback.
        on_readable = self._on_readable
        self._loop.add_reader(self._sock.fileno(), on_readable)
        self._watch = weakref.ref(on_readable, self._on_unwatched)

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch = None
            self._loop.remove_reader(self._sock.fileno())

    def _on_unwatched(self, watch: object) -> None:
        """The loop has let go of the callback: on its end, or because of an error."""
        if not self._loop.is_closed():
            # uvloop is not done with it yet.
            self._loop.call_soon(self._look_at_error, watch)

    def _look_at_error(self, watch: object) -> None:
        if self._watch is watch:
            self._stop_watching()
            self._look_again()

    def _careful_on_readable(self) -> None:
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
            # waits for: each registration is a system call (decision 0003).
            self._stop_watching()
        elif self._unsent and not self._writer_registered:
            self._send_pending()

    # Sending

    def _try_send(self, send: Callable[..., int], *args: Any) -> int | None:
        """The result of one system call, or None when it is time to wait.

        `send` is looked up for each try: a method kept over a wait would be that of a
        socket which has been closed meanwhile, and lingers, or is somebody else's.
        """
        if self._unsent:
            self._send_pending()
            self._check_broken()
            if self._queue.sent != self._queue.limit:
                return None
        if self._credit <= 0:
            return None
        try:
            sent = send(*args)
        except OSError as error:
            self._send_failed(error)
            return None
        self._credit -= sent + CALL_COST
        self._sent += sent
        self._traffic.sent += sent
        self._answered = self._received
        return sent

    def _send_failed(self, error: OSError) -> None:
        """Return when there is only to wait; any other error is raised."""
        try:
            if not isinstance(error, BlockingIOError):
                raise self._mark(error) from None
        finally:
            del error

    def _careful_sendall(self, rest: bytes | memoryview, flags: int) -> int | None:
        """How much of `rest` one system call takes, or None, if one may send now."""
        self._check_sendable()
        return self._try_send(self._sock.send, rest, flags)

    if TYPE_CHECKING or native is None:
        _try_recv = _careful_recv
        _try_recv_into = _careful_recv_into
        _input = _careful_input
        _on_readable = _careful_on_readable
        _try_sendall = _careful_sendall

    async def _send_once(self, attempt: Callable[[], int | None]) -> int:
        """Try until the kernel has taken something; how much.

        `send` does so by itself, for its speed.
        """
        deadline = self._deadline()
        while (sent := attempt()) is None:
            await self._output(deadline)
        return sent

    async def _send_rest(self, rest: bytes | memoryview, sent: int | None, flags: int) -> None:
        """Send what the first try, which took `sent` bytes, has left of `rest`."""
        deadline = self._deadline()
        while sent != len(rest):
            if sent is None:
                await self._output(deadline)
            else:
                rest = memoryview(rest)[sent:]
            sent = self._try_send(self._sock.send, rest, flags)

    def _output(self, deadline: float | None) -> Awaitable[None]:
        """What to await before another try to send. A call has `_deadline()` from when it began."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        if self._write_waiter is None:
            self._write_waiter = Waiter(self._loop)
        if self._timers is not None:
            self._timers.begin_output(self, deadline)
        self._register_writer()
        return self._write_waiter

    def _deadline(self) -> float | None:
        """When a call that sends, and begins now, raises TimeoutError; None for never."""
        return None if self._timers is None else self._timers.deadline(self._loop)

    def _check_sendable(self) -> None:
        if self._sending:
            raise self._in_use("sending on")
        if self._write_error is not None or self._half_close_requested:
            self._refuse_to_send()

    def _check_broken(self) -> None:
        if self._write_error is not None:
            self._refuse_to_send()

    def _refuse_to_send(self) -> NoReturn:
        if self._write_error is not None:
            raise self._again(self._write_error) from self._write_error
        raise self._mark(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

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

    def _register_writer(self) -> None:
        if not self._writer_registered:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
            self._writer_registered = True
            self._watch_output()

    def _unregister_writer(self) -> None:
        if self._writer_registered:
            self._loop.remove_writer(self._sock.fileno())
            self._writer_registered = False

    def _need_timers(self) -> Timers:
        if self._timers is None:
            self._timers = Timers(self._limits)
        return self._timers

    def _watch_output(self) -> None:
        if self._limits.concern_output:
            self._need_timers().watch_output(self)

    def _on_writable(self) -> None:
        # The kernel takes something, so the time begins anew.
        self._watch_output()
        self._send_pending()
        if self._tls is not None:
            self._tls.speak()
        waiter = self._write_waiter
        if waiter is not None and self._queue.sent == self._queue.limit:
            self._credit = TURN_CREDIT
            waiter.resume()
        # Looked up again: the task may have gone on to close the socket.
        if (
            self._queue.sent == self._queue.limit
            and (waiter is None or not waiter.waiting)
            and (self._tls is None or not self._tls.has_to_speak)
        ):
            self._unregister_writer()

    def _count_sent(self, count: int) -> None:
        """Count bytes that leave without another call of the handler's."""
        self._sent += count
        self._traffic.sent += count

    def _is_sender_waiting(self) -> bool:
        return self._write_waiter is not None and self._write_waiter.waiting

    def _total_sent(self) -> int:
        return self._sent + self._queue.sent

    # Joined writes: what `wfile.write` leaves here

    async def _flush(self) -> None:
        """Return when the kernel has everything that was written before this call."""
        self._check_broken()
        position = self._queue.queued
        self._send_pending()
        self._check_broken()
        if self._queue.sent < position:
            if self._never_waits:
                self._credit -= CALL_COST
                if self._credit <= 0:
                    self._credit = TURN_CREDIT
                    await GIVE_WAY
                raise self._would_block()
            await self._flushed(position)
        elif self._credit <= 0:
            self._credit = TURN_CREDIT
            await GIVE_WAY

    async def _flushed(self, position: int) -> None:
        timeout = None
        if self._timers is not None:
            self._timers.check(self)
            timeout = self._timers.timeout
        if self._flushes is None:
            self._flushes = Flushes()
        flushes, scope = self._flushes, asyncio.timeout(timeout)
        try:
            async with scope:
                await flushes.until(position, self._loop)
        except TimeoutError as error:
            raise (self._timed_out() if scope.expired() else self._mark(error)) from None
        finally:
            if not flushes:
                self._flushes = None
            # It holds the task, whose error refers to this frame: break the cycle.
            del scope

    def _write(self, block: bytes) -> bool:
        """Put one write behind the others; True when the writer has to wait for `_flush`."""
        if self._sock is CLOSED:
            raise self._mark(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        if self._write_error is not None or self._half_close_requested:
            self._refuse_to_send()
        pending = self._queue.append(block)
        self._unsent = pending != 0
        self._answered = self._received
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
        before = queue.sent
        if before == queue.limit:
            return
        try:
            queue.send(self._sock.send)
        except BlockingIOError:
            self._register_writer()
        except OSError as error:
            # Raised at the next write, flush or finish: nobody waits for it here.
            self._break(error.with_traceback(None))
            if self._flushes is not None:
                self._flushes.fail(functools.partial(self._again, error))
        self._traffic.sent += queue.sent - before
        self._unsent = queue.queued != queue.sent
        if self._flushes is not None:
            self._flushes.wake(queue.sent)
        if self._half_close_requested and not queue and not self._sending:
            self._half_close()

    def _break(self, error: OSError) -> None:
        """Drop what was written: it cannot leave. Whoever sends or writes next gets the error."""
        self._write_error = error
        self._queue.clear()
        self._unsent = False

    def _half_close(self) -> None:
        if self._write_error is None:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._write_error = error.with_traceback(None)

    # Errors

    def _fail_waits(self, make_error: Callable[[], OSError]) -> bool:
        """Have an error raised wherever a task waits in this socket; whether one does."""
        failed = [
            waiter.fail(make_error())
            for waiter in (self._read_waiter, self._write_waiter)
            if waiter is not None and waiter.waiting
        ]
        if self._flushes is not None:
            failed.append(self._flushes.fail(make_error))
        return any(failed)

    def _timed_out(self) -> OSError:
        return self._mark(TimeoutError("timed out"))

    def _would_block(self) -> BlockingIOError:
        return self._mark(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))

    def _again(self, error: OSError) -> OSError:
        """An error of its own for each caller: one raised twice gathers the tracebacks of both."""
        return self._mark(type(error)(*error.args))

    @staticmethod
    def _in_use(what: str) -> RuntimeError:
        return RuntimeError(
            f"another task is {what} this socket: only one may at a time, or nobody could tell "
            "whose bytes are whose (wfile.write() may be called by any number of tasks)"
        )

"""What waits to be sent on a stream socket: the joined writes of a `wfile`, and the writer.

Joined writes belong to the socket, so that every other way to send, and every way to
end, lets them go first (docs/decisions/0004-joined-writes.md).
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import select
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import TimedOut
from .plain_socket import PlainSocket
from .readiness import is_ready
from .send_queue import SendQueue
from .time_limits import TimeLimits, WaitTimeout
from .traffic import Traffic
from .waiter import GIVE_WAY, Waiter

if TYPE_CHECKING:
    from .tls_channel import TLSChannel

# What one connection may do before the others get their turn: bytes moved, and a
# price for each call, so that a client that blasts a handler doing recv(64) is no
# better off than one that sends large blocks (decision 0003: a 10 ms timer was 4 s late).
TURN_CREDIT = 256 * 1024
CALL_COST = 2 * 1024
LINE_COST = 512

# Written bytes that may wait in the process; a `write` that goes above waits itself.
WRITE_LIMIT = 64 * 1024

# Takes the place of the real socket in one that was closed: every method of it raises
# the OSError (EBADF) that a closed socket.socket raises.
CLOSED = socket.socket()
CLOSED.close()


class Output(PlainSocket):
    """A non-blocking stream socket, and the bytes that have to leave on it."""

    __slots__ = (
        "_answered",
        "_credit",
        "_expired",
        "_flush_scheduled",
        "_flush_waiters",
        "_half_close_requested",
        "_limits",
        "_owner",
        "_queue",
        "_received",
        "_resuming",
        "_sending",
        "_sent",
        "_stall_timeout",
        "_timeout",
        "_tls",
        "_traffic",
        "_write_error",
        "_write_timeout",
        "_write_waiter",
        "_writer_registered",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        limits: TimeLimits,
        owner: object,
        traffic: Traffic,
    ) -> None:
        super().__init__(sock, loop)
        self._timeout: float | None = None
        # What `_sock` is from when the connection is encrypted.
        self._tls: TLSChannel | None = None
        self._limits = limits
        # The request that this connection serves: passed to `limits.on_timed_out`, cleared on
        # close.
        self._owner = owner
        # The option of the server that has struck.
        self._expired = ""
        # Bytes that the handler got, and those that it sent itself, without its `wfile`.
        self._received: int = 0
        self._sent: int = 0
        # The same for all connections of the server.
        self._traffic = traffic
        # How many had been received when something was last sent or written.
        self._answered: int = 0
        # Shared with the receiving half: what this connection may do in one turn.
        self._credit = TURN_CREDIT
        # Set while a task runs inside a callback that flushes when it returns.
        self._resuming = False
        self._queue = SendQueue()
        self._write_waiter: Waiter | None = None
        self._write_timeout: WaitTimeout | None = None
        # Runs while the kernel takes nothing.
        self._stall_timeout: WaitTimeout | None = None
        self._writer_registered = False
        self._sending = False
        self._write_error: OSError | None = None
        self._half_close_requested = False
        self._flush_scheduled = False
        self._flush_waiters: list[tuple[int, asyncio.Future[None]]] | None = None

    def _refuse_to_send(self) -> NoReturn:
        if self._write_error is not None:
            raise self._again(self._write_error) from self._write_error
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
        self._sent += sent
        self._traffic.sent += sent
        self._answered = self._received
        return sent

    def _check_broken(self) -> None:
        if self._write_error is not None:
            self._refuse_to_send()

    def _output(self, deadline: float | None) -> Awaitable[None]:
        """What to await before another try to send."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        self._check_expired()
        if self._write_waiter is None:
            self._write_waiter = Waiter(self._loop)
        if deadline is not None:
            if self._timeout == 0:
                self._credit -= CALL_COST
                raise self._mark(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
            self._start_write_timeout(deadline)
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
            self._start_stall_timeout()

    def _unregister_writer(self) -> None:
        if self._writer_registered:
            self._loop.remove_writer(self._sock.fileno())
            self._writer_registered = False

    def _on_writable(self) -> None:
        # The kernel takes something, so the time begins anew.
        self._start_stall_timeout()
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

    # Time-outs

    def _start_write_timeout(self, deadline: float) -> None:
        if self._write_timeout is None:
            self._write_timeout = WaitTimeout(
                self._loop, is_waiting=self._is_sender_waiting, on_late=self._on_late_sending
            )
        self._write_timeout.start(deadline)

    def _start_stall_timeout(self) -> None:
        limits = self._limits
        if limits.write_timeout is None and limits.idle_timeout is None:
            return
        if self._stall_timeout is None:
            self._stall_timeout = WaitTimeout(
                self._loop,
                is_waiting=lambda: self._writer_registered,
                on_late=self._on_stalled,
                moved=lambda: self._received,
            )
        timeout = math.inf if limits.write_timeout is None else limits.write_timeout
        deadline = self._loop.time() + timeout
        self._stall_timeout.start(deadline, "write_timeout", limits.idle_timeout)

    def _is_sender_waiting(self) -> bool:
        return self._write_waiter is not None and self._write_waiter.waiting

    def _on_late_sending(self, _: str) -> None:
        assert self._write_waiter is not None
        if not is_ready(self._sock.fileno(), select.POLLOUT):
            self._write_waiter.fail(self._timed_out())

    def _on_stalled(self, option: str) -> None:
        """The peer does not read: what was written cannot leave any more."""
        if is_ready(self._sock.fileno(), select.POLLOUT):
            return
        self._write_error = TimedOut(option)
        self._queue.clear()
        self._unregister_writer()
        self._strike(option)

    def _strike(self, option: str) -> None:
        """A time-out of the server has struck: tell it, and have every wait fail."""
        self._limits.on_timed_out(self._owner, option)
        self._expire(option)

    def _expire(self, option: str) -> bool:
        """Have every wait fail from now on; whether there was one."""
        self._expired = option
        waiters = [w for w in (self._write_waiter, self._waiter_for_input()) if w is not None]
        woken = [waiter.fail(self._mark(TimedOut(option))) for waiter in waiters]
        for _, future in self._flush_waiters or ():
            if not future.done():
                future.set_exception(self._mark(TimedOut(option)))
                woken.append(True)
        return any(woken)

    def _waiter_for_input(self) -> Waiter | None:
        """Where the task waits that receives. The receiving half has one."""
        return None

    def _check_expired(self) -> None:
        if self._expired:
            raise self._mark(TimedOut(self._expired))

    def _count_sent(self, count: int) -> None:
        """Count bytes that leave without another call of the handler's."""
        self._sent += count
        self._traffic.sent += count

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
        self._check_expired()
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
            # The future holds the error, whose traceback refers to this frame: break the cycle.
            del entry

    def _write(self, block: bytes) -> bool:
        """Put one write behind the others; True when the writer has to wait for `_flush`."""
        if self._sock is CLOSED:
            raise self._mark(OSError(errno.EBADF, os.strerror(errno.EBADF)))
        if self._write_error is not None or self._half_close_requested:
            self._refuse_to_send()
        pending = self._queue.append(block)
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
            self._write_error = error.with_traceback(None)
            queue.clear()
        self._traffic.sent += queue.sent - before
        if self._flush_waiters:
            self._wake_flush_waiters()
        if self._half_close_requested and not queue and not self._sending:
            self._half_close()

    def _wake_flush_waiters(self) -> None:
        for position, future in self._flush_waiters or ():
            if future.done():
                continue
            if self._write_error is not None:
                future.set_exception(self._again(self._write_error))
            elif position <= self._queue.sent:
                future.set_result(None)

    def _half_close(self) -> None:
        if self._write_error is None:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._write_error = error.with_traceback(None)

    def _timed_out(self) -> OSError:
        return self._mark(TimeoutError("timed out"))

    def _again(self, error: OSError) -> OSError:
        """An error of its own for each caller: one raised twice gathers the tracebacks of both."""
        return self._mark(type(error)(*error.args))

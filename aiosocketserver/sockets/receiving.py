"""The receiving half of a stream socket: `recv` and its kin, as in `socket.socket`, awaited."""

from __future__ import annotations

import asyncio
import math
import select
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .last_waits import LastWaits
from .output import CALL_COST, TURN_CREDIT
from .readiness import is_ready
from .sending import SendingSide
from .time_limits import MessageTimeout, TimeLimits
from .traffic import Traffic
from .unix import CLOSE_ON_EXEC, descriptors_in, size_of_rights
from .waiter import CLOCK_RESOLUTION, GIVE_WAY, Waiter

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from .receive_buffer import ReceiveBuffer

# A whole number: the enum's own operators take longer than the rest of a call.
_PEEK = int(socket.MSG_PEEK)

# Stands for the option that ends a wait when it is the shutdown of the server that does.
_SHUTDOWN = "shutdown"


class ReceivingSide(SendingSide):
    """A non-blocking stream socket that is received from, and sent on."""

    __slots__ = (
        "_ends_when_draining",
        "_input_expected",
        "_last_waits",
        "_opening",
        "_peer_closed",
        "_read_limited",
        "_read_timeout",
        "_read_waiter",
        "_receiving",
        "_unread",
        "_watch",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        limits: TimeLimits,
        owner: object,
        traffic: Traffic,
    ) -> None:
        super().__init__(sock, loop, limits, owner, traffic)
        self._read_waiter = Waiter(self._loop)
        self._read_timeout: MessageTimeout | None = None
        # Whether a wait for input has to look at any time-out.
        self._read_limited = limits.concern_receiving
        # Set when the server shuts down; and what the handler has said, if it has, of
        # whether that ends its waits.
        self._last_waits: LastWaits | None = None
        self._ends_when_draining: bool | None = None
        # How much was received before the first message, and when (0: when it was accepted).
        self._opening: tuple[int, float] = (0, 0.0)
        # What the rfile has received and nobody has read: the beginning of a message.
        self._unread: ReceiveBuffer | None = None
        # While the loop watches for input: what tells when it has stopped by itself.
        self._watch: weakref.ref[Callable[[], None]] | None = None
        self._receiving = False
        # False after a short read: the next one would only tell that it would block.
        self._input_expected = True
        self._peer_closed = False

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive at most `bufsize` bytes; `b""` when the peer has closed its side."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    data = self._try_recv(bufsize, flags)
                    if data is not None:
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
                    count = self._try_recv_into(buffer, nbytes, flags)
                    if count is not None:
                        return count
                await self._input()
        finally:
            self._receiving = False

    def _try_recv(self, bufsize: int, flags: int = 0) -> bytes | None:
        """What one system call gives, or None when it would block.

        For who may try: while something is expected, and there is credit.
        """
        try:
            data = self._sock.recv(bufsize, flags)
        except BlockingIOError as error:
            return b"" if self._no_input(error, flags) else None
        except OSError as error:
            raise self._mark(error) from None
        count = len(data)
        self._credit -= count + CALL_COST
        if not flags or not flags & _PEEK:
            self._received += count
            self._traffic.received += count
        if count < bufsize:
            # Nothing is left in the kernel, unless the call only peeked (flags). Who may
            # not wait has to look each time.
            self._input_expected = (
                flags != 0 or self._timeout == 0 or (self._tls is not None and self._tls.has_more)
            )
            self._peer_closed = not count
        return data

    def _try_recv_into(self, buffer: WriteableBuffer, nbytes: int, flags: int) -> int | None:
        try:
            count = self._sock.recv_into(buffer, nbytes, flags)
        except BlockingIOError as error:
            return 0 if self._no_input(error, flags) else None
        except OSError as error:
            raise self._mark(error) from None
        self._credit -= count + CALL_COST
        if not flags or not flags & _PEEK:
            self._received += count
            self._traffic.received += count
        if count < (nbytes or memoryview(buffer).nbytes):
            # As in _try_recv.
            self._input_expected = (
                flags != 0 or self._timeout == 0 or (self._tls is not None and self._tls.has_more)
            )
            self._peer_closed = not count
        return count

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Receive bytes and ancillary data: see `socket.recvmsg`.

        Descriptors among it are the caller's to close, and are not inherited by children.
        """
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    received = self._try_recvmsg(bufsize, ancbufsize, flags)
                    if received is not None:
                        return received
                await self._input()
        finally:
            self._receiving = False

    async def recv_fds(
        self, bufsize: int, maxfds: int, flags: int = 0
    ) -> tuple[bytes, list[int], int, Any]:
        """Receive at most `bufsize` bytes and `maxfds` descriptors: see `socket.recv_fds`.

        Returns the bytes, the descriptors, which are the caller's to close and are not
        inherited by children, the flags of recvmsg(2), and the peer's address. With
        MSG_CTRUNC among the flags there were more descriptors, and the kernel has
        closed those.
        """
        received = await self.recvmsg(bufsize, size_of_rights(maxfds), flags)
        data, ancillary, message_flags, address = received
        return data, descriptors_in(ancillary), message_flags, address

    def _try_recvmsg(
        self, bufsize: int, ancbufsize: int, flags: int
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any] | None:
        try:
            data, ancillary, message_flags, address = self._sock.recvmsg(
                bufsize, ancbufsize, flags | CLOSE_ON_EXEC
            )
        except BlockingIOError as error:
            return (b"", [], 0, None) if self._no_input(error, flags) else None
        except OSError as error:
            raise self._mark(error) from None
        count = len(data)
        self._credit -= count + CALL_COST
        if not flags or not flags & _PEEK:
            self._received += count
            self._traffic.received += count
        # A message with descriptors ends a read early, so a short one says nothing of
        # what is left (unix(7)).
        self._peer_closed = not count
        return data, ancillary, message_flags & ~CLOSE_ON_EXEC, address

    def _no_input(self, error: BlockingIOError, flags: int) -> bool:
        """Nothing is there now: whether that is the end, because the server shuts down."""
        if self._timeout == 0 or flags & socket.MSG_DONTWAIT:
            # Charge this call too: otherwise a handler that polls in a loop would never give way.
            self._credit -= CALL_COST
            raise self._mark(error) from None
        if self._last_waits is not None and self._is_last_wait_over():
            self._credit -= CALL_COST
            return True
        self._input_expected = False
        return False

    def _input(self) -> Awaitable[None]:
        """What to await before another try to receive."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        if self._queue.queued != self._queue.sent:
            self._send_pending()
        if self._read_limited:
            if self._last_waits is not None and self._is_last_wait_over():
                # For one more look at what has come, or the end.
                self._input_expected = True
                return GIVE_WAY
            self._start_read_timeout()
        elif self._read_timeout is not None:
            self._read_timeout.stop()
        if self._watch is None:
            self._watch_input()
        return self._read_waiter

    def _limit_reading(self) -> None:
        drains = self._last_waits is not None
        self._read_limited = self._timeout is not None or self._limits.concern_receiving or drains

    def _start_read_timeout(self) -> None:
        self._check_expired()
        if self._read_timeout is None:
            self._read_timeout = MessageTimeout(
                self._loop,
                is_waiting=lambda: self._read_waiter.waiting,
                on_late=self._on_late_receiving,
                moved=self._total_sent,
            )
        limits = self._limits
        deadline, option = math.inf, ""
        if limits.read_timeout is not None and self._is_in_a_message():
            start = self._received - len(self._unread or b"")
            deadline = self._read_timeout.start_message(start, limits.read_timeout)
            option = "read_timeout"
        own_deadline = self._deadline()
        if own_deadline is not None and own_deadline < deadline:
            deadline, option = own_deadline, ""
        if self._last_waits is not None and (end := self._last_waits.end(self)) < deadline:
            deadline, option = end, _SHUTDOWN
        self._read_timeout.start(deadline, option, limits.idle_timeout)

    def _on_late_receiving(self, option: str) -> None:
        if is_ready(self._sock.fileno(), select.POLLIN):
            # On this turn of the loop, or the next one, the task will see it.
            return
        if option == _SHUTDOWN:
            self._look_again()
        elif option:
            self._strike(option)
        else:
            self._read_waiter.fail(self._timed_out())

    # Draining

    def end_when_draining(self, ends: bool = True) -> None:
        """Say whether the wait for the next message ends once the server shuts down (`draining`).

        The handler then finds what it finds when the client closes: `recv` and the rfile
        return `b""`, and `async for line in self.rfile` ends. What had arrived is read
        before, and a message that has begun is waited for.

        A handler that says True ends in any wait, and one that says False in none. Without
        a word of the handler the server judges, if its `end_when_draining` is set: a client
        that was answered since it has last sent something waits for nothing.
        """
        self._ends_when_draining = ends
        if self._last_waits is not None:
            self._look_again()

    def _server_drains(self, last_waits: LastWaits) -> None:
        self._last_waits = last_waits
        self._limit_reading()
        self._look_again()

    def _look_again(self) -> None:
        """Have the task that waits for input look whether there is some, or an end."""
        self._input_expected = True
        self._read_waiter.wake()

    def _is_last_wait_over(self) -> bool:
        assert self._last_waits is not None
        end = self._last_waits.end(self)
        # TLS may have told of nothing before it has looked at what the kernel has.
        return self._loop.time() + CLOCK_RESOLUTION >= end and not is_ready(
            self._sock.fileno(), select.POLLIN
        )

    def _is_in_a_message(self) -> bool:
        """Whether something has come, and what is read at once has not all come."""
        return bool(self._unread) or (self._tls is not None and self._tls.in_a_record)

    def _waiter_for_input(self) -> Waiter | None:
        return self._read_waiter

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
            # waits for: each registration is a system call (decision 0003).
            self._stop_watching()
            return
        queue = self._queue
        if queue.queued != queue.sent and not self._writer_registered:
            self._send_pending()

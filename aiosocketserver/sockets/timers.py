"""The time-outs of one connection, in an object that most connections never have.

A busy connection must not arm a timer for each read, and ten thousand idle ones must not
wake anybody up: see `WaitTimeout`.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
from collections.abc import Callable, Sized
from typing import Protocol, TypeVar

from ..errors import TimedOut
from .credit import CALL_COST
from .last_waits import LastWaits, Waits
from .readiness import is_ready
from .time_limits import BLOCKED, TimeLimits
from .waiter import CLOCK_RESOLUTION, Waiter

E = TypeVar("E", bound=Exception)

# Stands for the option that ends a wait when it is the shutdown of the server that does.
_SHUTDOWN = "shutdown"


class WaitTimeout:
    """Ends the waits of one kind on one socket that take too long.

    A timer that is pending stays when a wait ends, and looks at the deadline of the
    wait then going on when it fires: a connection that is busy arms one timer for
    each time-out that passes, not one for each `recv`.

    When a wait is too long, `on_late` is called with the name of the option that limits
    it. It looks first whether the socket is ready by now, because uvloop looks at timers
    before it looks at sockets. A limit of the server is put off when the loop was blocked.
    """

    __slots__ = (
        "_armed",
        "_deadline",
        "_handle",
        "_hard",
        "_idle",
        "_is_waiting",
        "_loop",
        "_moved",
        "_on_late",
        "_option",
        "_total_moved",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        is_waiting: Callable[[], bool],
        on_late: Callable[[str], object],
        moved: Callable[[], int] = int,
    ) -> None:
        self._loop = loop
        # Whether there is a wait, and nothing has ended it yet.
        self._is_waiting = is_waiting
        self._on_late = on_late
        # How many bytes the connection has moved in the other direction.
        self._total_moved = moved
        self._deadline = 0.0
        self._hard: float = 0.0
        self._option = ""
        self._idle: float | None = None
        self._moved = 0
        self._handle: asyncio.TimerHandle | None = None
        # When that was made.
        self._armed = 0.0

    def start(self, deadline: float, option: str = "", idle: float | None = None) -> None:
        """A wait begins that may last until `deadline`, on the loop's clock.

        And only `idle` seconds, unless something moves in the other direction meanwhile.
        """
        self._hard = deadline
        self._option = option
        self._idle = idle
        if idle is not None:
            self._moved = self._total_moved()
            deadline = min(deadline, self._loop.time() + idle)
        self._deadline = deadline
        if self._handle is not None and self._handle.when() > deadline:
            self.stop()
        if self._handle is None and deadline < math.inf:
            self._arm()

    def stop(self) -> None:
        """Let no timer fire any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        self._armed = self._loop.time()
        self._handle = self._loop.call_at(self._deadline, self._check)

    def _check(self) -> None:
        self._handle = None
        if not self._is_waiting():
            return
        # A wait may begin after its deadline: that is not the loop's fault.
        late = self._loop.time() - max(self._deadline, self._armed)
        option = "idle_timeout" if self._deadline < self._hard else self._option
        if late >= -CLOCK_RESOLUTION:
            if self._deadline < self._hard and self._total_moved() != self._moved:
                # Not idle after all.
                self.start(self._hard, self._option, self._idle)
                return
            if not option or late < BLOCKED:
                self._on_late(option)
                return
            self._put_off(2 * late)
        if self._deadline < math.inf:
            self._arm()

    def _put_off(self, seconds: float) -> None:
        """The loop was blocked: give the peer that time, and as much to make up for it."""
        if self._deadline == self._hard:
            self._hard += seconds
        self._deadline = min(self._deadline + seconds, self._hard)


class MessageTimeout(WaitTimeout):
    """`WaitTimeout` for receiving.

    It also limits a whole message (`read_timeout`) over several waits.
    """

    __slots__ = ("_message_deadline", "_message_start")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        is_waiting: Callable[[], bool],
        on_late: Callable[[str], object],
        moved: Callable[[], int],
    ) -> None:
        super().__init__(loop, is_waiting=is_waiting, on_late=on_late, moved=moved)
        self._message_start = -1
        self._message_deadline = math.inf

    def start_message(self, start: int, timeout: float) -> float:
        """The deadline of the message that begins at byte `start` of the connection."""
        # As long as nothing was read it is the same one.
        if start != self._message_start:
            self._message_start = start
            self._message_deadline = self._loop.time() + timeout
        return self._message_deadline

    def _put_off(self, seconds: float) -> None:
        super()._put_off(seconds)
        self._message_deadline += seconds


class Connection(Waits, Protocol):
    """The connection whose waits `Timers` limits, as far as it matters here."""

    _loop: asyncio.AbstractEventLoop
    _sock: socket.socket
    _read_waiter: Waiter
    _write_waiter: Waiter | None
    _writer_registered: bool
    _credit: int

    # What the rfile has received and nobody has read: the beginning of a message.
    @property
    def _unread(self) -> Sized | None: ...

    def _mark(self, error: E) -> E: ...
    def _would_block(self) -> BlockingIOError: ...
    def _timed_out(self) -> OSError: ...
    def _total_sent(self) -> int: ...
    def _is_sender_waiting(self) -> bool: ...
    def _look_again(self) -> None: ...
    def _break(self, error: OSError) -> None: ...
    def _unregister_writer(self) -> None: ...
    def _fail_waits(self, make_error: Callable[[], OSError]) -> bool: ...


class Timers:
    """What ends the waits of one connection: its `settimeout`, its server's limits and shutdown.

    Made when one of these is to end a wait. The connection is given with each call: kept here,
    it would be in a circle of references with this object, for the collector to find.
    """

    __slots__ = (
        "_input",
        "_limits",
        "_output",
        "_stall",
        "expired",
        "last_waits",
        "timeout",
        "watches_input",
    )

    def __init__(self, limits: TimeLimits) -> None:
        self._limits = limits
        # Whether a wait for input has to call `begin_input`.
        self.watches_input = limits.concern_input
        # Of `settimeout`, in seconds.
        self.timeout: float | None = None
        # The option of the server that has struck: every wait fails from then on.
        self.expired = ""
        # Set when the server shuts down.
        self.last_waits: LastWaits | None = None
        self._input: MessageTimeout | None = None
        self._output: WaitTimeout | None = None
        # Runs while the kernel takes nothing.
        self._stall: WaitTimeout | None = None

    def set_timeout(self, seconds: float | None) -> None:
        """Of `settimeout`, for the waits that begin from now on."""
        self.timeout = seconds
        self.watches_input = True

    def drain(self, last_waits: LastWaits) -> None:
        """The server shuts down."""
        self.last_waits = last_waits
        self.watches_input = True

    def stop(self) -> None:
        """The connection is closed: let no timer fire any more."""
        for each in (self._input, self._output, self._stall):
            if each is not None:
                each.stop()
        self._input = self._output = self._stall = None

    def check(self, connection: Connection) -> None:
        """Raise TimedOut if a time-out of the server has struck."""
        if self.expired:
            # A handler that tries again and again has to give way, or nothing could end it.
            connection._credit -= CALL_COST
            raise connection._mark(TimedOut(self.expired))

    def strike(self, connection: Connection, option: str) -> None:
        """A time-out of the server has struck: tell it, and have every wait fail."""
        self._limits.on_timed_out(connection._owner, option)
        self.expire(connection, option)

    def expire(self, connection: Connection, option: str) -> bool:
        """Have every wait fail from now on; whether there was one."""
        self.expired = option
        self.watches_input = True
        return connection._fail_waits(lambda: connection._mark(TimedOut(option)))

    def deadline(self, loop: asyncio.AbstractEventLoop) -> float | None:
        """When a call that begins now raises TimeoutError; None for never."""
        return None if self.timeout is None else loop.time() + self.timeout

    # Receiving

    def begin_input(self, connection: Connection) -> bool:
        """A wait for input begins: arm its timer. False if it must not, for a shutdown ends it."""
        self.check(connection)
        if self.is_last_wait_over(connection):
            return False
        limits = self._limits
        if self.timeout is None and self.last_waits is None and not limits.concern_input:
            # `settimeout` was taken back.
            if self._input is not None:
                self._input.stop()
            self.watches_input = False
            return True
        deadline, option = math.inf, ""
        if limits.read_timeout is not None and connection._is_in_a_message():
            start = connection._received - len(connection._unread or b"")
            deadline = self._input_timeout(connection).start_message(start, limits.read_timeout)
            option = "read_timeout"
        own_deadline = self.deadline(connection._loop)
        if own_deadline is not None and own_deadline < deadline:
            deadline, option = own_deadline, ""
        if self.last_waits is not None and (end := self.last_waits.end(connection)) < deadline:
            deadline, option = end, _SHUTDOWN
        if self._input is not None or deadline < math.inf or limits.idle_timeout is not None:
            self._input_timeout(connection).start(deadline, option, limits.idle_timeout)
        return True

    def is_last_wait_over(self, connection: Connection) -> bool:
        """Whether the server shuts down, and a wait for input does not go on."""
        if self.last_waits is None:
            return False
        end = self.last_waits.end(connection)
        # TLS may have told of nothing before it has looked at what the kernel has.
        return connection._loop.time() + CLOCK_RESOLUTION >= end and not is_ready(
            connection._sock.fileno(), select.POLLIN
        )

    def _input_timeout(self, connection: Connection) -> MessageTimeout:
        if self._input is None:
            self._input = MessageTimeout(
                connection._loop,
                is_waiting=lambda: connection._read_waiter.waiting,
                on_late=lambda option: self._on_late_input(connection, option),
                moved=connection._total_sent,
            )
        return self._input

    def _on_late_input(self, connection: Connection, option: str) -> None:
        if is_ready(connection._sock.fileno(), select.POLLIN):
            # On this turn of the loop, or the next one, the task will see it.
            return
        if option == _SHUTDOWN:
            connection._look_again()
        elif option:
            self.strike(connection, option)
        else:
            connection._read_waiter.fail(connection._timed_out())

    # Sending

    def begin_output(self, connection: Connection, deadline: float | None) -> None:
        """A wait until the kernel takes something begins, of a call that may last so long."""
        self.check(connection)
        if deadline is None:
            if self._output is not None:
                self._output.stop()
            return
        if self.timeout == 0:
            # As each call that gives nothing: a handler that polls has to give way, too.
            connection._credit -= CALL_COST
            raise connection._would_block()
        if self._output is None:
            self._output = WaitTimeout(
                connection._loop,
                is_waiting=connection._is_sender_waiting,
                on_late=lambda _: self._on_late_output(connection),
            )
        self._output.start(deadline)

    def _on_late_output(self, connection: Connection) -> None:
        assert connection._write_waiter is not None
        if not is_ready(connection._sock.fileno(), select.POLLOUT):
            connection._write_waiter.fail(connection._timed_out())

    def watch_output(self, connection: Connection) -> None:
        """The kernel takes nothing for now, or takes something again: the time begins anew."""
        limits = self._limits
        if self._stall is None:
            self._stall = WaitTimeout(
                connection._loop,
                is_waiting=lambda: connection._writer_registered,
                on_late=lambda option: self._on_stalled(connection, option),
                moved=lambda: connection._received,
            )
        timeout = math.inf if limits.write_timeout is None else limits.write_timeout
        deadline = connection._loop.time() + timeout
        self._stall.start(deadline, "write_timeout", limits.idle_timeout)

    def _on_stalled(self, connection: Connection, option: str) -> None:
        """The peer does not read: what was written cannot leave any more."""
        if not is_ready(connection._sock.fileno(), select.POLLOUT):
            # Before the hook, which may close the connection: it must not linger for what is left.
            connection._break(TimedOut(option))
            connection._unregister_writer()
            self.strike(connection, option)

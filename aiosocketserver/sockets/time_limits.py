"""How long a connection may take: the limits of its server, and the timer of a wait.

A busy connection must not arm a timer for each read, and ten thousand idle ones must
not wake anybody up: see `WaitTimeout`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import select
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from ..errors import TimedOut
from .readiness import is_ready
from .waiter import CLOCK_RESOLUTION

# A timer that comes this many seconds late says that the loop was blocked: the peer had
# no chance to be served, and gets the time back.
BLOCKED = 0.25


def _ignore(owner: object, option: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """What a server allows each of its connections, in seconds; None for no limit.

    `on_timed_out(owner, option)` is told when one strikes: whose connection, and the
    name of the server's option.
    """

    handshake_timeout: float | None = None
    read_timeout: float | None = None
    idle_timeout: float | None = None
    write_timeout: float | None = None
    on_timed_out: Callable[[object, str], object] = _ignore

    @property
    def concern_receiving(self) -> bool:
        """Whether a wait for input has to look at them."""
        return self.read_timeout is not None or self.idle_timeout is not None


NO_LIMITS = TimeLimits()


class Deadline:
    """Calls `on_late` after `seconds` seconds, on the loop; later when the loop was blocked."""

    __slots__ = ("_handle", "_loop", "_on_late")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, on_late: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._on_late = on_late
        self._handle = loop.call_later(seconds, self._check)

    def cancel(self) -> None:
        """Let it not be called any more."""
        self._handle.cancel()

    def _check(self) -> None:
        late = self._loop.time() - self._handle.when()
        if late < BLOCKED:
            self._on_late()
        else:
            self._handle = self._loop.call_later(late, self._check)


@contextlib.asynccontextmanager
async def time_limit(
    loop: asyncio.AbstractEventLoop, option: str, seconds: float | None
) -> AsyncGenerator[None]:
    """Raise TimedOut when the body takes longer than the server's `option` allows.

    As `asyncio.timeout`, but for the time that a blocked loop takes (see `Deadline`).
    """
    scope = asyncio.timeout(None)

    def end() -> None:
        scope.reschedule(loop.time())

    deadline = None if seconds is None else Deadline(loop, seconds, end)
    try:
        async with scope:
            yield
    except TimeoutError:
        if scope.expired():
            raise TimedOut(option) from None
        raise
    finally:
        if deadline is not None:
            deadline.cancel()


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


def limit_blocking(sock: socket.socket, limits: TimeLimits) -> None:
    """Have the kernel see to the limits of a blocking socket, which a thread uses.

    `idle_timeout` becomes the time-out of `settimeout`. `write_timeout` is, on TCP,
    TCP_USER_TIMEOUT (RFC 5482, tcp(7)): when the peer takes nothing for that long the
    connection ends with ETIMEDOUT. Elsewhere it is SO_SNDTIMEO (socket(7)), with which
    sending ends in EAGAIN.
    """
    if limits.idle_timeout is not None:
        sock.settimeout(limits.idle_timeout)
    if limits.write_timeout is None:
        return
    milliseconds = max(1, int(limits.write_timeout * 1000))
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    else:
        seconds, milliseconds = divmod(milliseconds, 1000)
        timeval = struct.pack("@ll", seconds, milliseconds * 1000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def option_that_struck(error: BaseException, sock: socket.socket, limits: TimeLimits) -> str:
    """The limit that made an operation on a blocking socket fail, or nothing.

    Such errors do not tell whose they are, so the state of the socket has to.
    """
    if sock.fileno() < 0:
        return ""
    timeout = sock.gettimeout()
    match error:
        case TimeoutError(errno=errno.ETIMEDOUT):
            ended = is_ready(sock.fileno(), 0)
            return "write_timeout" if ended and limits.write_timeout is not None else ""
        case TimeoutError():
            struck = timeout is not None and timeout == limits.idle_timeout
            return "idle_timeout" if struck and not is_ready(sock.fileno(), select.POLLIN) else ""
        case BlockingIOError() if timeout is None and limits.write_timeout is not None:
            return "" if is_ready(sock.fileno(), select.POLLOUT) else "write_timeout"
        case _:
            return ""

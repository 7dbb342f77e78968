"""How long a connection may take: a server's limits, one deadline, and blocking sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from ..errors import TimedOut
from .readiness import is_ready

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
    def concern_input(self) -> bool:
        """Whether a wait for input has to look at them."""
        return self.read_timeout is not None or self.idle_timeout is not None

    @property
    def concern_output(self) -> bool:
        """Whether it matters that the kernel takes nothing."""
        return self.write_timeout is not None or self.idle_timeout is not None


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

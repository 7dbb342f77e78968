"""The pauses of an accept loop that cannot accept for now."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

logger = logging.getLogger("aiosocketserver")

# The process or the system is short of something: what waits in the backlog can be
# taken later. Trio and Twisted count the same ones.
CAPACITY_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

FIRST_BACK_OFF = 0.05
LAST_BACK_OFF = 1.0

# What threading raises when pthread_create(3) fails, for want of memory or at a limit of
# threads. At the interpreter's exit, when none will ever be started, it is another text.
_NO_THREAD = "can't start new thread"


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that what failed can be done later, when there is more of it again."""
    if isinstance(error, OSError):
        return error.errno in CAPACITY_ERRNOS
    return isinstance(error, MemoryError)


def cannot_start(error: BaseException) -> bool:
    """Whether an error says that a thread or child can be started later."""
    if isinstance(error, OSError):
        # Of fork(2) it tells of a limit of processes.
        return error.errno == errno.EAGAIN or error.errno in CAPACITY_ERRNOS
    return isinstance(error, MemoryError) or (
        type(error) is RuntimeError and str(error) == _NO_THREAD
    )


def reason(error: BaseException) -> str:
    """What is short, for a line of the log."""
    if isinstance(error, OSError):
        return f"{error.strerror} (errno {error.errno})"
    return str(error) or ("out of memory" if isinstance(error, MemoryError) else repr(error))


def next_delay(delay: float) -> float:
    """Seconds of the next pause, when one of `delay` seconds (0: none yet) did not help."""
    return min(max(FIRST_BACK_OFF, delay * 2), LAST_BACK_OFF)


class BackOff:
    """Ever longer pauses, each of which ends in `on_end`; what caused them is logged once.

    All methods run on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], object]) -> None:
        self._loop = loop
        self._on_end = on_end
        # True from when a shortage was logged until the backlog has been emptied.
        self._logged = False
        self._delay = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lasts(self) -> bool:
        """Whether there is a pause now."""
        return self._timer is not None

    def start(self) -> None:
        """Begin a pause, twice as long as the last one if nothing was accepted since."""
        self._delay = next_delay(self._delay)
        self._timer = self._loop.call_later(self._delay, self._end)

    def stop(self) -> None:
        """End the pause without `on_end`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def log(self, error: BaseException) -> None:
        """Log why accepting is paused, once: a line for each try would fill the disk."""
        if not self._logged:
            self._logged = True
            logger.error("accepting is paused, and goes on as soon as it can: %s", reason(error))

    def accepted(self) -> None:
        """A request was accepted."""
        self._delay = 0.0

    def emptied(self) -> None:
        """Nobody waits to be accepted any more."""
        self._logged = False

    def _end(self) -> None:
        self._timer = None
        self._on_end()

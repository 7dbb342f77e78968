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


class BackOff:
    """Ever longer pauses, each of which ends in `on_end`; what caused them is logged once.

    All methods run on the loop's thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], object]) -> None:
        self._loop = loop
        self._on_end = on_end
        # Since a shortage was logged, until the backlog has been emptied.
        self._logged = False
        self._delay = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lasts(self) -> bool:
        """Whether there is a pause now."""
        return self._timer is not None

    def start(self) -> None:
        """Begin a pause, twice as long as the last one if nothing was accepted since."""
        self._delay = min(max(FIRST_BACK_OFF, self._delay * 2), LAST_BACK_OFF)
        self._timer = self._loop.call_later(self._delay, self._end)

    def stop(self) -> None:
        """End the pause without `on_end`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def log(self, error: OSError) -> None:
        """Say why accepting is paused, once: a line for each try would fill the disk."""
        if not self._logged:
            self._logged = True
            logger.error(
                "accepting is paused, and goes on as soon as it can: %s (errno %s)",
                error.strerror,
                error.errno,
            )

    def accepted(self) -> None:
        """A request was accepted."""
        self._delay = 0.0

    def emptied(self) -> None:
        """Nobody waits to be accepted any more."""
        self._logged = False

    def _end(self) -> None:
        self._timer = None
        self._on_end()

"""Log lines that clients cause: a flood of them must not fill a disk, and none is untold."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Hashable
from time import monotonic
from types import TracebackType
from typing import Any

logger = logging.getLogger("aiosocketserver")

# Lines of one kind that are logged within `INTERVAL` seconds; one more tells how many
# others there were.
BURST = 10
INTERVAL = 60.0

# Kinds that are told apart. They come from the code and not from clients, so that there
# are as many only in programs that make code as they run.
_MOST_KINDS = 1000


class _Kind:
    """What was logged of one kind since `begun`, and how much was not."""

    __slots__ = ("begun", "held_back", "last", "level", "logged")

    def __init__(self) -> None:
        self.begun = -math.inf
        self.logged = 0
        self.held_back = 0
        self.level = logging.NOTSET
        # Message and arguments, and the name of the exception.
        self.last: tuple[str, tuple[object, ...], str] = ("", (), "")


class ClientLog:
    """Logs what the clients of one server cause, at most `burst` lines of a kind in `interval`.

    What was held back is told in one line when the interval has passed: by a timer while
    `loop` runs, else by the next line of any kind or `tell(all_kinds=True)`, at the latest
    at the end of the server. `clock` returns seconds. Any thread may log.
    """

    def __init__(
        self,
        *,
        burst: int = BURST,
        interval: float = INTERVAL,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._burst = burst
        self._interval = interval
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}
        self._lock = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None

    def log(
        self,
        kind: Hashable,
        level: int,
        message: str,
        *args: object,
        exc_info: BaseException | None = None,
        extra: dict[str, Any] | None = None,
        stacklevel: int = 1,
    ) -> None:
        """Log a line of a kind, or hold it back: see `logging.Logger.log`."""
        if not logger.isEnabledFor(level):
            return
        self.tell()
        if self._may_log(kind, level, message, args, exc_info):
            logger.log(
                level, message, *args, exc_info=exc_info, extra=extra, stacklevel=stacklevel + 1
            )

    def exception(
        self,
        message: str,
        error: BaseException | None,
        *args: object,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Log an exception of the program's own code, with its traceback.

        Each place where one is raised is a kind, so that each is told.
        """
        kind = message, type(error), *_place_of(error)
        self.log(kind, logging.ERROR, message, *args, exc_info=error, extra=extra, stacklevel=2)

    def tell(self, *, all_kinds: bool = False) -> None:
        """Log how many lines were held back, of those kinds whose interval has passed."""
        if not self._kinds:
            return
        now = self._clock()
        with self._lock:
            over = [
                key
                for key, kind in self._kinds.items()
                if all_kinds or now >= kind.begun + self._interval
            ]
            told = [kind for kind in map(self._kinds.pop, over) if kind.held_back]
        for kind in told:
            message, args, error = kind.last
            logger.log(
                kind.level,
                "%d more in %.0f s, the last one: %s",
                kind.held_back,
                now - kind.begun,
                (message % args if args else message) + error,
                extra={"client_address": None, "request_id": None},
            )

    def end(self) -> None:
        """Tell the rest: the server ends, or its loop does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.tell(all_kinds=True)

    def _may_log(
        self,
        key: Hashable,
        level: int,
        message: str,
        args: tuple[object, ...],
        error: BaseException | None,
    ) -> bool:
        with self._lock:
            if key not in self._kinds and len(self._kinds) >= _MOST_KINDS:
                key = None
            kind = self._kinds.setdefault(key, _Kind())
            if not kind.logged:
                kind.begun = self._clock()
            if kind.logged < self._burst:
                kind.logged += 1
                return True
            kind.held_back += 1
            kind.level = level
            # Without the error itself, which holds all that its frames do.
            kind.last = message, args, f": {type(error).__qualname__}" if error else ""
            is_first = kind.held_back == 1
        if is_first and self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._start_timer)
        return False

    def _start_timer(self) -> None:
        begins = [kind.begun for kind in list(self._kinds.values()) if kind.held_back]
        if self._timer is None and begins and self.loop is not None:
            delay = min(begins) + self._interval - self._clock()
            self._timer = self.loop.call_later(max(delay, 0), self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self.tell()
        self._start_timer()


def _place_of(error: BaseException | None) -> tuple[str, int]:
    """File and line where it was raised."""
    last: TracebackType | None = None if error is None else error.__traceback__
    if last is None:
        return "", 0
    while last.tb_next is not None:
        last = last.tb_next
    return last.tb_frame.f_code.co_filename, last.tb_lineno

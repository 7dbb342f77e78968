"""Log lines that whoever sends enough could fill a disk with: one for each minute."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic


class LogLimit:
    """Which of many like events are logged: one in `interval` seconds, the first at once.

    `clock` returns seconds. An object belongs to one thread.
    """

    def __init__(self, interval: float = 60.0, clock: Callable[[], float] = monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._next = -math.inf
        self._count = 0

    def count(self) -> int:
        """Count one event. How many the line to be logged now stands for, 0 for no line."""
        self._count += 1
        now = self._clock()
        if now < self._next:
            return 0
        self._next = now + self._interval
        count, self._count = self._count, 0
        return count

"""A small share of a loop's time, for what must not hold up the rest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from time import monotonic, thread_time

# Each second of work is followed by so many for the others.
_PAUSE = 4.0


class Turns:
    """Pieces of work, one after another in the order in which they asked.

    At most one is done in a turn of the loop, and all together have a fifth of its time.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._free_at = 0.0

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncGenerator[None]:
        """Wait for a turn, which the body is; it waits for nothing."""
        async with self._lock:
            # At least one turn of the loop lies between two.
            await asyncio.sleep(max(self._free_at - monotonic(), 0.0))
            # The processor's time: what other processes take is not this one's fault.
            begun = thread_time()
            try:
                yield
            finally:
                self._free_at = monotonic() + _PAUSE * (thread_time() - begun)

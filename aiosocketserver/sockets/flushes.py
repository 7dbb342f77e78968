"""The tasks that wait until the kernel has what was written before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Flushes:
    """Waits of one connection, each for a position of its `SendQueue`.

    All but `waiting` is for the loop's thread.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def waiting(self) -> bool:
        """Whether there is one that nothing has ended yet. In any thread."""
        return any(not future.done() for _, future in list(self._waiting))

    async def until(self, position: int, loop: asyncio.AbstractEventLoop) -> None:
        """Return when everything before `position` has been sent (`wake`)."""
        entry = position, loop.create_future()
        self._waiting.append(entry)
        try:
            await entry[1]
        finally:
            self._waiting.remove(entry)
            # The future holds the error, whose traceback refers to this frame: break the cycle.
            del entry

    def wake(self, sent: int) -> None:
        """Everything before `sent` has been sent."""
        for position, future in self._waiting:
            if position <= sent and not future.done():
                future.set_result(None)

    def fail(self, make_error: Callable[[], OSError]) -> bool:
        """Have an error of its own raised by each; whether there was one."""
        failed = [future for _, future in self._waiting if not future.done()]
        for future in failed:
            future.set_exception(make_error())
        return bool(failed)

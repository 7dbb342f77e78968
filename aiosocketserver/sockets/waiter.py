"""The awaitable behind every wait for a socket: one wait at a time, no queue in between.

An `asyncio.Future` sends each wake-up through the loop's ready queue, one more turn
of the loop. A task accepts anything that speaks the future-blocking protocol, so the
callback of a readable socket can call the task's own wake-up directly. That made a
lock-step echo 10 to 15 % faster (docs/decisions/0002-inline-resumption.md).
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ..compiled import native

# Used as `result` when there is no error: any C callable without arguments will do, because
# its return value is ignored.
_no_error = bool

# uvloop's clock counts whole milliseconds, so a timer may come that many seconds early.
CLOCK_RESOLUTION = 0.001

# Where a waiter's context belongs before its first wait.
_NO_CONTEXT = Context()


class PythonWaiter:
    """A place where one task waits; used again for every wait on one side of a socket.

    `resume` may only be called by the loop itself (a reader or writer callback): run
    from inside another task, asyncio would refuse to enter this one and it would hang.
    Every other wake-up (a close, a time-out, a cancellation) is `fail` or `wake`, which
    go through `call_soon`.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_context",
        "_error",
        "_loop",
        "get_loop",
        "result",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # A task, which is written in C, calls these two at each wait, and a call from C
        # into Python costs more than most of what a wait does: as callables of C they
        # take 5 % off the instructions of an echo (docs/decisions/0002-inline-resumption.md).
        self.get_loop: Callable[[], object] = weakref.ref(loop)
        self.result: Callable[[], object] = _no_error
        self._asyncio_future_blocking = False
        self._callback: Callable[[Any], object] | None = None
        self._context = _NO_CONTEXT
        self._error: BaseException | None = None

    @property
    def waiting(self) -> bool:
        """Whether a task is suspended here and nothing has woken it yet."""
        return self._callback is not None

    def __await__(self) -> Generator[Any, Any, None]:
        self._asyncio_future_blocking = True
        # An iterator that yields this object once, without a generator's frame; a
        # tuple kept for it would be a reference cycle for every connection.
        return iter((self,))  # type: ignore[return-value]

    def resume(self) -> bool:
        """Run the waiting task now, in its own context; False when none waits.

        Loop callbacks only.
        """
        callback = self._callback
        if callback is None:
            return False
        self._callback = None
        self._context.run(callback, self)
        return True

    def fail(self, error: BaseException) -> bool:
        """Have `error` raised where the task waits, on the next turn of the loop.

        Returns False, and does nothing, when no task waits or it was woken already.
        """
        if not self.wake():
            return False
        self._error = error
        self.result = self._raise_error
        return True

    def wake(self) -> bool:
        """Let the waiting task go on, on the next turn of the loop; False when none waits."""
        callback = self._callback
        if callback is None:
            return False
        self._callback = None
        self._loop.call_soon(callback, self, context=self._context)
        return True

    # The rest is, with `get_loop` and `result`, the protocol that asyncio's tasks speak
    # with what they wait for.

    def add_done_callback(
        self, callback: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        self._callback = callback
        self._context = copy_context() if context is None else context

    def cancel(self, msg: object = None) -> bool:
        return self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        self.result = _no_error
        assert error is not None
        try:
            raise error
        finally:
            # The error's traceback refers to this frame: break the cycle.
            del error


Waiter = PythonWaiter
if native is not None and not TYPE_CHECKING:
    # native/waiter.c
    Waiter = native.Waiter


class GiveWay:
    """An awaitable that lets everybody else on the loop run once, as `asyncio.sleep(0)` does."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return iter((None,))  # type: ignore[return-value]


GIVE_WAY = GiveWay()

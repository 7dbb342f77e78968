"""Functions in greenlets on the loop's own thread: where one would block, the loop goes on.

A greenlet waits for what coroutines wait for in the way a task does, without one: a call
that need not wait switches nowhere, and what waits is a stack and nothing else
(docs/decisions/0015-greenlets.md).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from ..cpython import enter_loop, get_running_loop, leave_loop, set_running_loop
from ..requests.bridge import carry_exit, result_of

R = TypeVar("R")

# Greenlets kept for the next request: a new one costs a new stack.
_MOST_IDLE = 64


class GreenletPool:
    """Runs functions in greenlets, in which no loop is running. On the thread of `loop`.

    To be made where the loop runs, and not in a greenlet. A greenlet whose function has
    returned is kept for another one, which cannot tell.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle: list[HandlerGreenlet] = []
        # What every greenlet switches to when it has to wait.
        self.leave: Callable[[], Any] = getcurrent().switch
        # The thread's hooks for asynchronous generators while `loop` runs.
        self.asyncgen_hooks: Any = None

    def start(
        self, function: Callable[[Any, Any], object], first: Any, second: Any, context: Context
    ) -> HandlerGreenlet:
        """Call `function(first, second)`, which must not raise, until it waits or returns."""
        runs = self._idle.pop() if self._idle else HandlerGreenlet(self)
        runs.begin((function, first, second), context)
        return runs

    def put_back(self, idle: HandlerGreenlet) -> bool:
        """Keep a greenlet that has nothing to do; False if there are enough."""
        if len(self._idle) >= _MOST_IDLE:
            return False
        self._idle.append(idle)
        return True


class HandlerGreenlet(greenlet):
    """Runs functions of handlers, one after another; its parent runs the loop."""

    __slots__ = ("_cancellation", "_context", "_job", "_pool", "_waits_for", "is_cancelled")

    def __init__(self, pool: GreenletPool) -> None:
        super().__init__(self._run_jobs)
        self._pool = pool
        if pool.asyncgen_hooks is None:
            pool.asyncgen_hooks = sys.get_asyncgen_hooks()
        self._job: tuple[Callable[[Any, Any], object], Any, Any] | None = None
        self._context: Context | None = None
        self._waits_for: Any = None
        self._cancellation: asyncio.CancelledError | None = None
        # Whether somebody has asked for the end of what it runs.
        self.is_cancelled = False

    def _run_jobs(self) -> None:
        while self._job is not None:
            function, first, second = self._job
            self._job = None
            # Not `function(*args)`: Python would use the C stack for it, which is copied
            # at each switch.
            function(first, second)
            # Nothing of it may outlive it.
            del function, first, second
            self.gr_context = self._context = None
            self._cancellation = None
            self.is_cancelled = False
            if not self._pool.put_back(self):
                return
            self._pool.leave()

    def begin(self, job: tuple[Callable[[Any, Any], object], Any, Any], context: Context) -> None:
        """Run a function, with its two arguments, until it waits or returns."""
        self._job = job
        self._context = self.gr_context = context
        # Legacy code may run a loop of its own, with asyncio.run() for example. The caller
        # may be a task: that of the connection.
        left = leave_loop()
        try:
            self.switch()
        finally:
            enter_loop(left)

    def resume(self, _: object = None) -> None:
        """Go on with it: what it waited for is done. Callbacks of the loop only."""
        # As in begin(); a callback runs in no task.
        set_running_loop(None)
        try:
            self.switch()
        finally:
            set_running_loop(self._pool.loop)

    def wait(self, awaited: Any) -> None:
        """Give way until `awaited`, something that a coroutine has yielded, is done."""
        if self._cancellation is None:
            if awaited is None:
                self._pool.loop.call_soon(self.resume, context=self._context)
            else:
                awaited.add_done_callback(self.resume, context=self._context)
            self._waits_for = awaited
            try:
                if get_running_loop() is None:
                    self._pool.leave()
                else:
                    with self.on_servers_loop():
                        self._pool.leave()
            except GreenletExit:
                # The loop has ended, and nobody has kept what waited on it.
                self.is_cancelled = True
                raise asyncio.CancelledError("the loop has ended") from None
            self._waits_for = None
        if self._cancellation is not None:
            error, self._cancellation = self._cancellation, None
            raise error
        if awaited is not None:
            awaited.result()

    @contextmanager
    def on_servers_loop(self) -> Generator[None]:
        """Within it, the server's loop is the running one, and not one that the handler runs."""
        own = leave_loop()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*self._pool.asyncgen_hooks)
        set_running_loop(self._pool.loop)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*hooks)
            enter_loop(own)

    def cancel(self, message: str) -> None:
        """Have a CancelledError raised where it waits, or where it waits next."""
        self.is_cancelled = True
        if self._waits_for is None or not self._waits_for.cancel(message):
            self._cancellation = asyncio.CancelledError(message)


def current_greenlet() -> HandlerGreenlet | None:
    """The one that calls this, if a handler in a greenlet does."""
    this = getcurrent()
    return this if isinstance(this, HandlerGreenlet) else None


def waiting_greenlet() -> HandlerGreenlet:
    """The same, for who has to wait. Raises RuntimeError for anybody else."""
    this = getcurrent()
    if type(this) is not HandlerGreenlet:
        raise RuntimeError(
            "the socket of a handler in a greenlet would have to wait for its client, and only "
            "the handler itself can: it was called by another thread, task or hook"
        )
    return this


def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine of the core to its end, giving way wherever it waits."""
    try:
        awaited = coroutine.send(None)
        while True:
            try:
                waiting_greenlet().wait(awaited)
            except BaseException as error:  # noqa: BLE001 - raised where the coroutine waits
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(None)
    except StopIteration as end:
        result: R = end.value
        return result


def await_in_task(
    loop: asyncio.AbstractEventLoop,
    this: HandlerGreenlet,
    function: Callable[..., Coroutine[Any, Any, R]],
    *args: Any,
    **kwargs: Any,
) -> R:
    """Run anybody's coroutine function in a task of its own, and give way until it has returned."""
    # A task may begin as it is made (asyncio.eager_task_factory).
    with this.on_servers_loop():
        task = loop.create_task(carry_exit(function, *args, **kwargs))
    try:
        if not task.done():
            this.wait(task)
        return result_of(task.result())
    except asyncio.CancelledError:
        task.cancel()
        if this.is_cancelled:
            raise
        raise RuntimeError("the coroutine was cancelled before it returned") from None

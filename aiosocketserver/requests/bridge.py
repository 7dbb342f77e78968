"""The ways between a server's loop and its threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from .back_off import cannot_start
from .entries import InThread, current
from .starts import Starts
from .threads import Job, ThreadPool

P = ParamSpec("P")
R = TypeVar("R")

# Seconds between two looks of a waiting thread whether the loop is still there.
_LOOP_CHECK = 1.0


class _Exit:
    """An exit, on its way to the code that waits for a coroutine."""

    def __init__(self, error: SystemExit | KeyboardInterrupt) -> None:
        self.error = error


async def carry_exit(
    function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
) -> R | _Exit:
    """Call a coroutine function, in a task of its own, for `result_of` to tell what became of it.

    An exit that a task raises would tear through the loop, past whoever waits for it.
    """
    try:
        return await function(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as exit_:
        return _Exit(exit_)


def result_of(result: R | _Exit) -> R:
    """What the function has returned. Raises the exit that it has raised."""
    if isinstance(result, _Exit):
        raise result.error
    return result


class ThreadCalls:
    """Blocking functions that coroutines have run in threads of a pool, on one loop."""

    def __init__(self, threads: ThreadPool, starts: Starts) -> None:
        self._threads = threads
        self._starts = starts
        self._slots: asyncio.Semaphore | None = None

    async def run(
        self, limit: int | None, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a function in a thread and return its result: see `BaseServer.run_in_thread`.

        - limit: how many may run at once; that of the first call is for all of them
        """
        loop = asyncio.get_running_loop()
        # Kept for the way back: the next call may come with a limit, or without.
        slots = None
        if limit is not None:
            if self._slots is None:
                self._slots = asyncio.Semaphore(limit)
            slots = self._slots
            await slots.acquire()
        done: asyncio.Future[R] = loop.create_future()

        def deliver(result: R | None, error: BaseException | None) -> None:
            if slots is not None:
                slots.release()
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            result: R | None = None
            failure: BaseException | None = None
            try:
                result = function(*args, **kwargs)
            except (StopIteration, GeneratorExit) as error:
                # A future cannot carry the one (PEP 479), and the other one would close
                # the coroutine that waits, which may have more to wait for.
                failure = RuntimeError(f"{function!r} raised {type(error).__name__}")
                failure.__cause__ = error
            except BaseException as error:  # noqa: BLE001 - raised where it is awaited
                failure = error
            try:
                loop.call_soon_threadsafe(deliver, result, failure)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return

        submit = partial(self._threads.submit, job, copy_context(), name=None, daemon=False)
        try:
            try:
                submitted = submit()
            except BaseException as error:
                if not cannot_start(error):
                    raise
                submitted = await self._submit_later(submit)
        except BaseException:
            if slots is not None:
                slots.release()
            raise
        if submitted.interrupted_by is not None:
            # As when it is cancelled: the result is dropped.
            done.cancel()
            raise submitted.interrupted_by
        return await done

    async def _submit_later(self, submit: Callable[[], Job]) -> Job:
        starts = self._starts
        starts.waiting += 1
        try:
            return await starts.until_started(
                submit, "run_in_thread() waits until a thread can be started"
            )
        finally:
            starts.waiting -= 1


def call_on_loop(
    loop: asyncio.AbstractEventLoop | None,
    function: Callable[P, Coroutine[Any, Any, R]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> R:
    """Call a coroutine function on a server's loop from a thread: see `BaseServer.run_on_loop`.

    - loop: None for a server that has not been started
    """
    if loop is None:
        raise RuntimeError("the server has not been started: it has no loop to run this on")
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        raise RuntimeError(
            "run_on_loop() was called on the loop's own thread, which it would block: "
            "await the coroutine there"
        )

    coroutine = carry_exit(function, *args, **kwargs)
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise RuntimeError("the server's loop has ended") from None
    request = current.get()
    if isinstance(request, InThread):
        request.loop_call = future
    try:
        return result_of(_wait_for(future, loop))
    finally:
        if loop.is_closed() and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            # Its turn on the loop never came, so nobody will await it.
            coroutine.close()
        if isinstance(request, InThread):
            request.loop_call = None


def _wait_for(future: concurrent.futures.Future[R], loop: asyncio.AbstractEventLoop) -> R:
    while True:
        concurrent.futures.wait([future], timeout=_LOOP_CHECK)
        if future.done():
            try:
                return future.result()
            except concurrent.futures.CancelledError:
                raise RuntimeError(
                    "the coroutine was cancelled before it returned, as all are when "
                    "the server or its loop ends"
                ) from None
        if loop.is_closed():
            raise RuntimeError("the server's loop ended before the coroutine returned")

"""The ways between a server's loop and its threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any, ParamSpec, TypeVar

from ..options import table as option
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


class Bridge:
    """What a server offers to handlers that have to cross from the loop to a thread or back."""

    max_threads: Annotated[int | None, option.max_threads] = None

    _loop: asyncio.AbstractEventLoop | None = None

    # Seconds that a thread without a job is kept; None for what the pool does.
    _thread_idle_timeout: float | None = None

    def __init__(self) -> None:
        self._threads = ThreadPool(self._thread_idle_timeout)
        self._thread_slots: asyncio.Semaphore | None = None
        self._starts = Starts(self._threads)

    async def run_in_thread(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a blocking function in one of the server's threads and return its result.

        For coroutine handlers. The function sees the caller's context variables, and
        its exception is raised here. When the call is cancelled the function goes on,
        for a thread cannot be stopped, and its result is dropped. These threads are
        not the loop's default executor, which is small and shared with DNS look-ups.
        While no thread can be started, for want of memory or at a limit, it waits, which
        is logged once a minute.
        """
        loop = asyncio.get_running_loop()
        # Kept for the way back: `max_threads` may be set or unset meanwhile.
        slots = None
        if self.max_threads is not None:
            if self._thread_slots is None:
                self._thread_slots = asyncio.Semaphore(self.max_threads)
            slots = self._thread_slots
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

    def run_blocking(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function from a legacy handler, where it holds up nobody.

        A handler in a thread or child of its own calls it at once, one in a greenlet has
        it called in a thread: the same handler does on every mix-in.
        """
        return function(*args, **kwargs)

    def run_on_loop(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a coroutine function on the server's loop and return its result.

        For legacy handlers: it blocks the calling thread, whose context variables the
        coroutine sees, and its exception is raised here. Thread-safe; this is also how
        a legacy handler stops its server: `self.server.run_on_loop(self.server.shutdown)`.

        Raises RuntimeError on the loop's own thread (await the coroutine there), when
        the server has not been started, and when the loop ends before the coroutine.
        """
        loop = self._loop
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
            return result_of(self._wait_for(future, loop))
        finally:
            if loop.is_closed() and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                # Its turn on the loop never came, so nobody will await it.
                coroutine.close()
            if isinstance(request, InThread):
                request.loop_call = None

    @staticmethod
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

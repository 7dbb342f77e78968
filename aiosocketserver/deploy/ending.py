"""The end of a service in bounded time, whatever still runs in its process.

The requests have their own deadlines (see `draining`). This is about the rest: other
tasks, asynchronous generators, executors, threads, exit functions, a blocked loop.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import gc
import io
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import AsyncGeneratorType, FrameType
from typing import Any, NoReturn, TypeVar

from ..cpython import (
    JOINS_ALL_THREADS,
    frames_of_threads,
    join_all_threads,
    leave_behind,
    register_before_threads_are_joined,
    run_exit_functions,
    threads_of,
)
from ..requests.children import flush_standard_streams
from ..requests.threads import end_all_idle
from ..signal_wakeups import woken_by_signals
from . import log_output

logger = logging.getLogger("aiosocketserver.deploy")

R = TypeVar("R")

# Seconds after its time-out in which a server cuts what is left of its requests.
_CUTTING = 2.0

# Seconds that all the rest has at least when the requests have ended.
_REST = 2.0

# And in a worker whose requests have taken all of their time: its parent kills it a second
# after they are cut.
REST_OF_WORKER = 0.5

# Seconds that the log and the standard streams have for the last words of a process.
_LAST_WORDS = 0.5

# Seconds between two looks.
_LOOK = 0.02


class Ending:
    """By when the process of a service has to be gone. A thread ends it then, with `code`.

    Nothing runs before `begin` or `begin_rest` is called the first time. Both may be
    called again: the earliest end counts.

    - rest: seconds for what comes after the requests, when these have taken all of theirs
    """

    def __init__(self, rest: float = _REST) -> None:
        self._rest = rest
        self.code = 0
        # Called just before.
        self.on_cut: Callable[[], object] = _nothing
        # By when the requests have ended that need not be cut.
        self._requests_end = math.inf
        self._deadline = math.inf
        self._watched = False
        self._released = False
        self._lock = threading.Lock()
        self._on_release: list[Callable[[], object]] = []
        self._threads_before = set(threading.enumerate())

    @property
    def left(self) -> float:
        """Seconds until then."""
        return max(0.0, self._deadline - time.monotonic())

    def begin(self, seconds: float | None) -> None:
        """The service is to end, and its requests have `seconds` from now; None for no limit.

        Signal handlers may call it: it takes no lock.
        """
        if seconds is not None:
            self._requests_end = min(self._requests_end, time.monotonic() + seconds)
            self._limit(seconds + _CUTTING + self._rest)

    def begin_rest(self) -> None:
        """The requests have ended. All the rest may use what they have left of their time."""
        left = self._requests_end - time.monotonic()
        self._limit(_REST if left == math.inf else max(_REST, left))

    def _limit(self, seconds: float) -> None:
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        if not self._watched:
            self._watched = True
            try:
                # threading.Thread takes locks that the interrupted code may hold.
                _thread.start_new_thread(self._watch, ())
            except RuntimeError:
                # No thread can be started. The next call tries again.
                self._watched = False

    def on_release(self, function: Callable[[], object]) -> None:
        """Have a function called if the process goes on after the service."""
        self._on_release.append(function)

    def release(self) -> None:
        """The process goes on, and its end is its own: only what the service left behind is cut."""
        with self._lock:
            self._released = True
        for function in self._on_release:
            function()
        _end_idle()
        left = {t for t in _that_hold_the_process() if t not in self._threads_before}
        if left:
            _tell(left, "is left behind")
            _do_not_wait_for(left, self.code)

    def _watch(self) -> None:
        while self.left and not self._released:
            time.sleep(min(self.left, _LOOK))
        with self._lock:
            if not self._released:
                end_at_once(self.code, self.on_cut)


def _nothing() -> None:
    pass


def end_at_once(code: int, on_cut: Callable[[], object] = _nothing) -> NoReturn:
    """Tell what still runs, and end the process. In a thread of its own."""
    told = threading.Event()

    def tell() -> None:
        # A log handler or a pipe may be just what hangs.
        try:
            threads = _that_hold_the_process()
            if not _waits_for_others(threading.main_thread()):
                threads.append(threading.main_thread())
            _tell(threads, "is cut")
            log_output.flush()
            flush_standard_streams()
        finally:
            told.set()

    # One that cannot be started has nobody to wait for it.
    with contextlib.suppress(RuntimeError):
        _thread.start_new_thread(tell, ())
        told.wait(_LAST_WORDS)
    on_cut()
    os._exit(code)


def _tell(threads: Iterable[threading.Thread], what: str) -> None:
    for thread in threads:
        logger.warning("the thread %r %s: %s", thread.name, what, _where(thread))


def _that_hold_the_process() -> list[threading.Thread]:
    """The threads that the interpreter would wait for."""
    main = threading.main_thread()
    return [t for t in threading.enumerate() if not t.daemon and t is not main and t.is_alive()]


_STANDARD_LIBRARY = os.path.dirname(os.path.abspath(threading.__file__)) + os.sep
_INSTALLED = os.path.join(_STANDARD_LIBRARY, "site-packages", "")


def _is_standard(path: str) -> bool:
    return path.startswith(_STANDARD_LIBRARY) and not path.startswith(_INSTALLED)


def _where(thread: threading.Thread) -> str:
    frames: list[FrameType] = []
    frame = frames_of_threads().get(thread.ident or 0)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return _innermost(frames)


def _where_it_waits(task: asyncio.Task[Any]) -> str:
    frames: list[FrameType] = []
    # `Task.get_stack` has the outermost coroutine only.
    awaited: Any = task.get_coro()
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.insert(0, frame)
        awaited = awaited.cr_await
    return _innermost(frames)


def _innermost(frames: list[FrameType]) -> str:
    """The innermost place outside of the standard library, if there is one."""
    own = [frame for frame in frames if not _is_standard(frame.f_code.co_filename)]
    frame = next(iter(own or frames), None)
    if frame is None:
        return "it runs no Python code"
    return f"{frame.f_code.co_filename} line {frame.f_lineno}, in {frame.f_code.co_name}"


def _waits_for_others(thread: threading.Thread) -> bool:
    """Whether a thread is at the end of the process, where it joins others."""
    frame = frames_of_threads().get(thread.ident or 0)
    while frame is not None and frame.f_code is not JOINS_ALL_THREADS:
        frame = frame.f_back
    return frame is not None


# The end of the loop


def run_to_end(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    make: Callable[[], Coroutine[Any, Any, R]],
    ending: Ending | None,
) -> R:
    """Run a coroutine on a loop of its own, and end the loop with what is left on it.

    As `asyncio.run`, which waits five minutes for its executor and without end for tasks.
    Returns before `ending`; without one within two seconds.
    """
    loop = loop_factory()
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    loop.set_default_executor(executor)
    try:
        with woken_by_signals(loop):
            try:
                return loop.run_until_complete(make())
            finally:
                seconds = _REST
                if ending is not None:
                    ending.begin_rest()
                    seconds = ending.left
                loop.run_until_complete(_end_loop(loop, executor, seconds))
                if ending is None:
                    _tell((t for t in threads_of(executor) if t.is_alive()), "is left behind")
    finally:
        # It does not wait for an executor that the program has set itself.
        loop.close()


async def _end_loop(
    loop: asyncio.AbstractEventLoop, executor: ThreadPoolExecutor, seconds: float
) -> None:
    # A part of it is for what comes after the loop.
    end = loop.time() + max(seconds / 2, seconds - _REST / 2)
    soon = min(end, loop.time() + _REST / 2)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    for task in await _wait(others, soon):
        logger.warning("%r is left behind: %s", task, _where_it_waits(task))
    generators = loop.create_task(loop.shutdown_asyncgens())
    if await _wait({generators}, soon):
        for each in gc.get_objects():
            if isinstance(each, AsyncGeneratorType) and each.ag_running and each.ag_frame:
                place = _innermost([each.ag_frame])
                logger.warning("the generator %r is left behind: %s", each.__qualname__, place)
    executor.shutdown(wait=False)
    # An event would need a thread that joins them.
    while loop.time() < end and any(thread.is_alive() for thread in threads_of(executor)):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)
    # Those that wait in its queue have never begun.
    executor.shutdown(wait=False, cancel_futures=True)


async def _wait(tasks: set[asyncio.Task[Any]], end: float) -> set[asyncio.Task[Any]]:
    """Wait for tasks until then, and tell of those that have failed; those that go on."""
    loop = asyncio.get_running_loop()
    if not tasks:
        return tasks
    done, going_on = await asyncio.wait(tasks, timeout=max(0.0, end - loop.time()))
    for task in done:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a task failed when it was cancelled at the end", exc_info=error)
    for task in going_on:
        # The caller tells of it.
        leave_behind(task)
    return going_on


# The end of the process


def leave(code: int, ending: Ending) -> NoReturn:
    """End the process as the interpreter would, but before `ending`, and at last hard.

    Threads are waited for, exit functions called, and open files flushed. Modules are
    not torn down: what their objects do then could hang where nothing can end it any more.
    """
    ending.code = code
    ending.begin_rest()
    join_threads()
    run_exit_functions()
    _flush_files()
    log_output.flush()
    flush_standard_streams()
    os._exit(code)


def _flush_files() -> None:
    for each in gc.get_objects():
        if issubclass(type(each), io.BufferedWriter | io.BufferedRandom | io.TextIOWrapper):
            # It is closed, or nobody reads there, which its own end would not tell either.
            with contextlib.suppress(ValueError, OSError):
                each.flush()


def join_threads() -> None:
    """Wait for the threads, those of executors included, as the interpreter does first of all."""
    _end_idle()
    join_all_threads()


def _end_idle() -> None:
    for thread in end_all_idle():
        thread.join()


def _do_not_wait_for(left: set[threading.Thread], code: int) -> None:
    """Have the interpreter wait at its end for the other threads only."""

    def watch() -> None:
        end = time.monotonic() + _REST
        while time.monotonic() < end or not left.issuperset(_that_hold_the_process()):
            time.sleep(_LOOK)
            if left.isdisjoint(_that_hold_the_process()):
                # The interpreter ends by itself.
                return
        # The main thread, which would call them, waits for those threads.
        run_exit_functions()
        end_at_once(code)

    def begin() -> None:
        if not left.isdisjoint(_that_hold_the_process()):
            _thread.start_new_thread(watch, ())

    # Called before threads are joined. What `atexit` registers would come too late.
    register_before_threads_are_joined(begin)

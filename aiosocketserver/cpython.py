"""What this package uses of CPython that CPython does not promise, in one place.

Each name is here with what it is for and the version that brought it. A new version of
Python is looked at here first: tests/test_cpython.py tells each name that has gone, and
each that is used elsewhere.

One cannot be here: `_asyncio_future_blocking` (3.6, `sockets/waiter.py`), an attribute by which a
task, which is written in C, knows what it may wait for.
"""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

LeftLoop: TypeAlias = tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any] | None"]

# The running loop of this thread (3.5.3): both are written in C, and documented for those
# who write event loops.
get_running_loop = asyncio._get_running_loop
set_running_loop = asyncio._set_running_loop

# The current task (3.7). Up to Python 3.13 each loop has its own. From 3.14 on there is one
# of the thread, and it must be left before another loop can run a task there.
_enter_task = asyncio.tasks._enter_task
_leave_task = asyncio.tasks._leave_task


def leave_loop() -> LeftLoop | None:
    """Have this thread run no loop and no task; what `enter_loop` needs to go back.

    None if it runs no loop. Code that is called then may run a loop of its own.
    """
    loop = get_running_loop()
    if loop is None:
        return None
    task = asyncio.current_task(loop)
    if task is not None:
        _leave_task(loop, task)
    set_running_loop(None)
    return loop, task


def enter_loop(left: LeftLoop | None) -> None:
    """Go back to the loop and to the task that `leave_loop` has left. No task may run here."""
    if left is None:
        set_running_loop(None)
        return
    loop, task = left
    # Before the task: Python 3.14 looks whether the task is one of the running loop.
    set_running_loop(loop)
    if task is not None:
        _enter_task(loop, task)


# An attribute of a task whose cancellation is on its way (3.4): before 3.13 uncancel() leaves
# that. Where a task has none, nothing is on its way.
MUST_CANCEL = "_must_cancel"


def leave_behind(task: asyncio.Task[Any]) -> None:
    """Have asyncio say nothing when a task that has not ended is dropped (3.4)."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]


# How many references there are (2.0), to compare with an earlier number. From 3.14 on the
# interpreter borrows some of a caller's: only numbers from the same function are comparable.
references_to: Callable[[object], int] = sys.getrefcount


def event_loop_set_here() -> asyncio.AbstractEventLoop | None:
    """The loop of this thread's set_event_loop(), without making one (3.4).

    Python 3.16 has no policies any more. A policy of somebody's own may keep its loops in
    its own way.
    """
    policy: Any = getattr(asyncio.events, "_event_loop_policy", None)
    try:
        loop: asyncio.AbstractEventLoop | None = None if policy is None else policy._local._loop
    except AttributeError:
        return None
    return loop


# Called before the interpreter joins the threads that are no daemons (3.9), which it does
# before it calls what `atexit` has; concurrent.futures needs it for the same reason.
register_before_threads_are_joined: Callable[[Callable[[], object]], object]
register_before_threads_are_joined = cast("Any", threading)._register_atexit

# The name that threading.Thread() would take, which counts as its own (3.10).
new_thread_name: Callable[[str], str] = threading._newname  # type: ignore[attr-defined]

# Joins all threads, as the interpreter does at its end (3.0).
join_all_threads: Callable[[], object] = threading._shutdown  # type: ignore[attr-defined]
JOINS_ALL_THREADS: CodeType = threading._shutdown.__code__  # type: ignore[attr-defined]

# Calls what `atexit` has, as the interpreter does at its end (3.0).
run_exit_functions: Callable[[], object] = atexit._run_exitfuncs

# The frame of each thread (2.5): documented, "for specialized purposes only".
frames_of_threads: Callable[[], dict[int, FrameType]] = sys._current_frames


def threads_of(executor: ThreadPoolExecutor) -> set[threading.Thread]:
    """The threads of an executor (3.2)."""
    return executor._threads  # type: ignore[return-value]

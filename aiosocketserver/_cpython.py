"""What this package uses of CPython that CPython does not promise, in one place.

Each name is here with what it is for, the version that brought it, and what would have to
take its place. A new version of Python is looked at here first: tests/test_cpython.py
tells each name that has gone.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

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

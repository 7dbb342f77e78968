"""Which event loop a compat server runs on, and code that must not see the one it is on."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, cast

from aiosocketserver.cpython import enter_loop, leave_loop, set_running_loop
from aiosocketserver.signal_wakeups import woken_by_signals

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]

# For programs that cannot be edited.
LOOP_VARIABLE = "AIOSOCKETSERVER_LOOP"


def loop_factory_of(server: object) -> LoopFactory:
    """What makes the loop for `server`: its `loop_factory`, the environment, asyncio's default.

    Raises as `loop_factory_named`.
    """
    # Not by getattr(): a plain function in a class body is not meant as a method.
    chosen: Any = inspect.getattr_static(server, "loop_factory", None)
    if isinstance(chosen, staticmethod):
        chosen = chosen.__func__
    if callable(chosen):
        return cast("LoopFactory", chosen)
    if chosen is not None:
        return loop_factory_named(chosen, f"{type(server).__qualname__}.loop_factory")
    return loop_factory_named(os.environ.get(LOOP_VARIABLE), f"the variable {LOOP_VARIABLE}")


def loop_factory_named(name: object, source: str) -> LoopFactory:
    """What makes the loop of that name; None and "" mean asyncio. `source` is told in errors.

    Raises ValueError for a name that stands for no loop, and ImportError for a loop
    that is not installed.
    """
    if not name or name == "asyncio":
        # As the program's event loop policy has it.
        return asyncio.new_event_loop
    if name != "uvloop":
        raise ValueError(f"{source} must be 'asyncio' or 'uvloop', and is {name!r}")
    try:
        import uvloop
    except ImportError as error:
        raise ImportError(
            f"{source} asks for uvloop, which is not installed: pip install aiosocketserver[uvloop]"
        ) from error
    return uvloop.new_event_loop


@contextlib.contextmanager
def without_running_loop() -> Generator[None]:
    """Within it, this thread has no running loop, whether it has one or not.

    Legacy code may run a loop of its own, with `asyncio.run` say, wherever it could do
    so under socketserver.
    """
    left = leave_loop()
    try:
        yield
    finally:
        enter_loop(left)


@contextlib.contextmanager
def with_running_loop(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """The reverse, in legacy code that a callback of `loop` has called."""
    left = leave_loop()
    set_running_loop(loop)
    try:
        yield
    finally:
        enter_loop(left)


@contextlib.contextmanager
def new_loop(factory: LoopFactory) -> Generator[asyncio.AbstractEventLoop]:
    """A loop to run in this thread, also inside another one; closed, with its tasks, at the end."""

    def make() -> asyncio.AbstractEventLoop:
        with _without_log_records():
            return factory()

    with without_running_loop(), asyncio.Runner(loop_factory=make) as runner:
        # Not runner.run(): its Ctrl-C cancels a task, where a plain handler, which
        # blocks the loop, has to be interrupted.
        loop = runner.get_loop()
        with woken_by_signals(loop):
            yield loop


@contextlib.contextmanager
def _without_log_records() -> Generator[None]:
    """Within it, this thread logs nothing as asyncio, which says at DEBUG that it makes a loop.

    A legacy program knows nothing of that. One whose log handler sends to this very
    server, and holds the handler's lock until it answers, would wait for ever.
    """
    thread = threading.get_ident()
    logger = logging.getLogger("asyncio")

    def passes(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)

"""How a service ends: its signals and exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NoReturn, Self

from ..threads import end_all_idle
from . import log_output

logger = logging.getLogger("aiosocketserver.deploy")

# Nothing was served: a setting, a bind, a certificate or the target is wrong.
CANNOT_START = 2

# The code of a process that a second signal ended is this and the signal's number, as in shells.
SIGNALLED = 128


class ExitSignals:
    """What the signals that end a service do, while it is open. On the main thread's loop.

    The first one calls `on_first`, on the loop. The second one calls `on_second`, and
    ends the process whatever it is doing: Python's own handlers run also while a
    request blocks the loop.
    """

    # Forked children do without, as without the loop's own handlers.
    of_loop = True

    def __init__(
        self,
        on_first: Callable[[], object],
        on_second: Callable[[], object] | None = None,
        numbers: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    ) -> None:
        self._on_first = on_first
        self._on_second = on_second
        self._seen = False
        self._loop = asyncio.get_running_loop()
        self._before = {number: signal.signal(number, self._handle) for number in numbers}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Put back what was before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self._seen:
            if self._on_second is not None:
                self._on_second()
            os._exit(SIGNALLED + number)
        self._seen = True
        self._loop.call_soon_threadsafe(self._begin, signal.Signals(number))

    def _begin(self, number: signal.Signals) -> None:
        self._on_first()
        logger.info("%s: draining", number.name)


def exit_code(end: BaseException | None) -> int:
    """The code for what a handler has raised to end its server, as the interpreter has it."""
    if end is None:
        return 0
    code = end.code if isinstance(end, SystemExit) else 1
    if code is None or isinstance(code, int):
        return code or 0
    logger.error("%s", code)
    return 1


def leave(code: int) -> NoReturn:
    """End the interpreter, also when a thread that was given up is still busy."""
    # Those without a job are about to end, and nobody has to be told of them.
    for thread in end_all_idle():
        thread.join()
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.main_thread()]
    if not others:
        log_output.flush()
        sys.exit(code)
    for thread in others:
        logger.warning("the thread %r is left behind", thread.name)
    log_output.flush()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)

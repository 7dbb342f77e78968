"""How a service ends: its signals and exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterable

from .ending import Ending

logger = logging.getLogger("aiosocketserver.deploy")

# Nothing was served: a setting, a bind, a certificate or the target is wrong.
CANNOT_START = 2

# The code of a process that a second signal ended is this and the signal's number, as in shells.
SIGNALLED = 128


class ExitSignals:
    """What the signals that end a service do from now on. On the main thread's loop.

    The first one begins the `ending`, with `seconds()` for the requests, and calls
    `on_first`, on the loop. The second one calls `on_second`, and ends the process
    whatever it is doing: Python's own handlers run also while a request blocks the loop.
    They stay when the loop has ended, until `ending` is released.
    """

    # Forked children do without, as without the loop's own handlers.
    of_loop = True

    def __init__(
        self,
        ending: Ending,
        seconds: Callable[[], float | None],
        on_first: Callable[[], object],
        on_second: Callable[[], object] | None = None,
        numbers: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
    ) -> None:
        self._ending = ending
        self._seconds = seconds
        self._on_first = on_first
        self._on_second = on_second
        self._seen = False
        self._loop = asyncio.get_running_loop()
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        ending.on_release(self._put_back)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        del frame
        if self._seen:
            if self._on_second is not None:
                self._on_second()
            os._exit(SIGNALLED + number)
        self._seen = True
        self._ending.begin(self._seconds())
        # RuntimeError: the loop has ended, as everything is about to.
        with contextlib.suppress(RuntimeError):
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

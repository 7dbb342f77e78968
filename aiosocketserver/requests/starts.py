"""Threads and children that cannot be started for now: what is to run in them waits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import TypeVar

from ..logs.limits import LogLimit
from .back_off import cannot_start, next_delay, reason
from .threads import ThreadPool

R = TypeVar("R")

logger = logging.getLogger("aiosocketserver")


class Starts:
    """Threads and children of one server that could not be started, each tried until it can.

    The first one is tried after ever longer pauses, and when a thread of `pool` becomes free
    or `try_again` is called; the others have their turn after it. All methods but
    `try_threadsafe` run on the loop's thread.
    """

    def __init__(self, pool: ThreadPool) -> None:
        self.waiting = 0
        """How many requests wait; counted by the code that makes them wait, before that begins."""
        self._pool = pool
        self._turn = asyncio.Lock()
        self._delay = 0.0
        self._pause: asyncio.Future[None] | None = None
        self._log_limit = LogLimit()

    async def until_started(self, start: Callable[[], R], message: str) -> R:
        """Call `start` until it no longer fails for want of memory, threads or children.

        Returns what it returns. Any other error is raised. `message` is logged, at most once
        a minute, with the reason and the number of requests that wait.
        """
        async with self._turn:
            told = functools.partial(self.try_threadsafe, asyncio.get_running_loop())
            # Before the first try: a thread may become free just after it.
            self._pool.on_idle.add(told)
            try:
                while True:
                    try:
                        started = start()
                    except BaseException as error:
                        if not cannot_start(error):
                            raise
                        self._log(error, message)
                    else:
                        self._delay = 0.0
                        return started
                    await self._pass_time()
            finally:
                self._pool.on_idle.discard(told)

    def try_again(self) -> None:
        """Something has become free: end the pause."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    def try_threadsafe(self, loop: asyncio.AbstractEventLoop) -> None:
        """`try_again`, from any thread, for requests that wait on `loop`."""
        # When the loop has been closed, none waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self.try_again)

    async def _pass_time(self) -> None:
        loop = asyncio.get_running_loop()
        self._delay = next_delay(self._delay)
        self._pause = loop.create_future()
        timer = loop.call_later(self._delay, self.try_again)
        try:
            await self._pause
        finally:
            timer.cancel()
            self._pause = None

    def _log(self, error: BaseException, message: str) -> None:
        if self._log_limit.count():
            logger.error("%s: %s; %d wait", message, reason(error), self.waiting)

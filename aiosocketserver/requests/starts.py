"""Threads and children that cannot be started for now: what is to run in them waits."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable

from ..logs.limits import LogLimit
from .back_off import cannot_start, next_delay, reason
from .threads import ThreadPool

logger = logging.getLogger("aiosocketserver")


class Starts:
    """Those of one server that failed for want of something, each tried until it succeeds.

    The first one is tried after ever longer pauses, and when a thread of `pool` is free
    or `try_again` is called; the others have their turn after it. All methods but
    `try_threadsafe` run on the loop's thread.
    """

    def __init__(self, pool: ThreadPool) -> None:
        self.waiting = 0
        """How many wait, counted by those who have them wait, from before their task begins."""
        self._pool = pool
        self._turn = asyncio.Lock()
        self._delay = 0.0
        self._pause: asyncio.Future[None] | None = None
        self._log_limit = LogLimit()

    async def until_started(self, start: Callable[[], object], message: str) -> None:
        """Call `start` until it does not fail for want of something.

        Raises what else it raises. `message` is logged, once a minute at most, with why it
        fails and how many wait.
        """
        async with self._turn:
            told = functools.partial(self.try_threadsafe, asyncio.get_running_loop())
            # Before the first try: a thread may become free just after it.
            self._pool.on_idle.add(told)
            try:
                while True:
                    try:
                        start()
                    except BaseException as error:
                        if not cannot_start(error):
                            raise
                        self._log(error, message)
                    else:
                        self._delay = 0.0
                        return
                    await self._pass_time()
            finally:
                self._pool.on_idle.discard(told)

    def try_again(self) -> None:
        """Something has become free: end the pause."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    def try_threadsafe(self, loop: asyncio.AbstractEventLoop) -> None:
        """The same, from any thread, on the loop on which somebody may wait."""
        # When it has ended nobody does.
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

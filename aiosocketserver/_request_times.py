"""The time that each request has as a whole: `request_timeout`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ._time_limits import BLOCKED

if TYPE_CHECKING:
    from ._in_progress import InProgress

logger = logging.getLogger("aiosocketserver")

# Seconds that a request has after its time was up, before its connection is closed under it.
_GRACE = 1.0


class RequestTimes:
    """A timer for each request of one server on one loop, on the loop's thread.

    `on_timed_out` is told of a request whose `timeout` seconds are over, and then it is
    made to end, by force when it does not.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        on_timed_out: Callable[[InProgress, str], object],
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._on_timed_out = on_timed_out
        self._timers: dict[InProgress, asyncio.TimerHandle] = {}

    def begun(self, request: InProgress) -> None:
        """Its time runs from now on."""
        self._timers[request] = self._loop.call_later(self._timeout, self._late, request)

    def ended(self, request: InProgress) -> None:
        """It needs no more time."""
        timer = self._timers.pop(request, None)
        if timer is not None:
            timer.cancel()

    def _late(self, request: InProgress) -> None:
        blocked = self._loop.time() - self._timers[request].when()
        if blocked > BLOCKED:
            # The loop's fault, and everybody's time: it gets it back.
            self._timers[request] = self._loop.call_later(blocked, self._late, request)
            return
        self._timers[request] = self._loop.call_later(_GRACE, self._still_there, request)
        self._on_timed_out(request, "request_timeout")
        request.expire()

    def _still_there(self, request: InProgress) -> None:
        logger.warning(
            "%r, which serves %r, goes on after the server's request_timeout: it is cut",
            request,
            request.client_address,
        )
        request.abort()

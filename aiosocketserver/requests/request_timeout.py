"""The time that each request has as a whole: `request_timeout`."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from time import monotonic

from ..logs.client_log import ClientLog
from ..sockets.time_limits import Deadline
from .entries import InProgress

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
        client_log: ClientLog,
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._on_timed_out = on_timed_out
        self._client_log = client_log
        self._deadlines: dict[InProgress, Deadline] = {}

    def begun(self, request: InProgress) -> None:
        """Its time runs since it was accepted, also for one that goes on in a thread or child."""
        on_late = functools.partial(self._end_late, request)
        left = max(0.0, request.begun_at + self._timeout - monotonic())
        self._deadlines[request] = Deadline(self._loop, left, on_late)

    def ended(self, request: InProgress) -> None:
        """It needs no more time."""
        deadline = self._deadlines.pop(request, None)
        if deadline is not None:
            deadline.cancel()

    def _end_late(self, request: InProgress) -> None:
        on_late = functools.partial(self._cut, request)
        self._deadlines[request] = Deadline(self._loop, _GRACE, on_late)
        self._on_timed_out(request, "request_timeout")
        request.expire()

    def _cut(self, request: InProgress) -> None:
        self._client_log.log(
            "late",
            logging.WARNING,
            "%r, which serves %r, goes on after the server's request_timeout: it is cut",
            request,
            request.client_address,
            extra=request.log_extra(),
        )
        request.abort()

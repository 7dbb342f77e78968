"""The requests that a server is serving: what `shutdown` waits for, and then cuts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any

from ..sockets.stream import StreamSocket
from .entries import InProgress, InTask, InThread, InWaiting, is_task
from .hosts import HostCounts
from .request_timeout import RequestTimes
from .statistics import RequestEnd, Statistics

logger = logging.getLogger("aiosocketserver")


class RequestsInProgress(set[InProgress]):
    """The requests that are registered. Only the loop's thread may change the set.

    `on_room` is called after a request has ended.
    """

    def __init__(self, on_room: Callable[[], object], statistics: Statistics) -> None:
        super().__init__()
        self._statistics = statistics
        # Whether `hosts` or `times` is set.
        self._watched = False
        # Set where the connections of each host are limited.
        self.hosts: HostCounts | None = None
        # Set where the time of each request is limited.
        self.times: RequestTimes | None = None
        # Called on the loop with what became of each request that has ended.
        self.observers: list[Callable[[RequestEnd], object]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._on_room = on_room

    def count_hosts(self, ipv6_prefix_length: int) -> HostCounts:
        """Count the connections of each host from now on; those in progress are counted too."""
        self._watched = True
        self.hosts = HostCounts(ipv6_prefix_length)
        for request in self:
            self.hosts.add(request.client_address)
        return self.hosts

    def limit_times(self, times: RequestTimes) -> None:
        """Limit the time of each request that begins from now on."""
        self._watched = True
        self.times = times

    def begun(self, request: InProgress) -> None:
        """Register a request, and count it if it is one of its own."""
        self.add(request)
        if request.counts:
            statistics = self._statistics
            statistics.accepted += 1
            active = statistics.accepted - statistics.finished
            if active > statistics.peak:
                statistics.peak = active
        if self._watched:
            if self.hosts is not None:
                self.hosts.add(request.client_address)
            if self.times is not None:
                self.times.begun(request)

    def readdress(self, request: InProgress, client_address: Any) -> None:
        """Give a request the client address that a proxy has told."""
        if self.hosts is not None:
            self.hosts.remove(request.client_address)
            self.hosts.add(client_address)
        request.client_address = client_address

    def ended(self, request: InProgress) -> None:
        """Unregister a request, add up what it took, and wake up those who wait for its end."""
        try:
            self.remove(request)
        except KeyError:
            return
        statistics = self._statistics
        connection = request.request
        is_stream = isinstance(connection, StreamSocket)
        if request.outcome:
            seconds = monotonic() - request.begun_at
            statistics.finished += 1
            statistics.handling_time += seconds
            if self.observers:
                self._tell(request, seconds)
        if self._watched:
            if self.hosts is not None:
                self.hosts.remove(request.client_address)
            if self.times is not None:
                self.times.ended(request)
        # The contexts of the task and of the socket's waits refer to this request: break the
        # cycles, or both live until the garbage collector runs (decision 0017). A connection
        # that an overridden shutdown_request() has kept open may still tell of a time-out.
        if not is_stream or connection.fileno() < 0:
            request.request = None
        if isinstance(request, InTask):
            request.task = None
        self._on_room()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, request: InProgress, seconds: float) -> None:
        received = sent = None
        if isinstance(request.request, StreamSocket):
            received, sent = request.request._received, request.request._total_sent()
        end = RequestEnd(
            request.client_address, request.id, seconds, request.outcome, received, sent
        )
        for observer in self.observers:
            try:
                observer(end)
            except Exception:
                logger.exception("an observer of requests failed")

    def forget_ended(self) -> None:
        """Unregister the requests whose threads ended after the loop had been closed."""
        for request in [r for r in self if isinstance(r, InThread) and r.ended]:
            self.ended(request)

    def awaited(self, exempt: Collection[InProgress]) -> list[InProgress]:
        """The requests that a shutdown has to wait for."""
        return [r for r in self if r.awaited and r not in exempt]

    async def wait_started(self) -> None:
        """Return when no request waits for its thread or child to be started.

        If this is cancelled, the requests that still wait are cut.
        """
        waiting = [r.task for r in self if isinstance(r, InWaiting)]
        tasks = [task for task in waiting if is_task(task)]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise

    async def wait(self, exempt: Collection[InProgress]) -> None:
        """Return when only the requests in `exempt`, and those that nobody awaits, are left."""
        while self.awaited(exempt):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)

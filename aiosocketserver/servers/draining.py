"""The end of a server: new requests are not taken, those in progress end or are cut."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import NamedTuple, Protocol

from ..logs.client_log import ClientLog
from ..requests.entries import InProgress, InThread, current
from ..requests.registry import RequestsInProgress
from ..requests.stages import Stages
from ..requests.statistics import Statistics
from ..requests.threads import ThreadPool
from ..sockets.last_waits import LastWaits
from ..sockets.stream import StreamSocket

logger = logging.getLogger("aiosocketserver")

# Seconds that a handler has after it was cancelled, and again after its connection was
# closed under it, before `shutdown` gives it up.
_GRACE = 1.0

# Seconds between two looks for clients that need not be waited for and tell nobody so.
_LOOK = 0.05


class ShutdownReport(NamedTuple):
    """What became of the requests that were in progress when a shutdown began, or waited."""

    finished: int
    """Those that ended by themselves."""

    cut: int
    """Those that were cancelled at the deadline."""

    abandoned: int
    """Those among them that went on even so."""


class DrainingHost(Protocol):
    """What the end of a server's requests asks of the server."""

    statistics: Statistics
    drain_event: asyncio.Event
    _requests: RequestsInProgress
    _threads: ThreadPool
    _client_log: ClientLog

    @property
    def _stages(self) -> Stages: ...

    @property
    def _ends_idle(self) -> bool:
        """Whether connections end whose clients wait for nothing: see `end_when_draining`."""
        ...

    def _stop_accepting(self) -> None:
        """Accept nothing more."""
        ...

    async def _drain(self) -> None:
        """Take what waits to be accepted, then accept nothing more."""


class Draining:
    """The end of the requests in progress: they are told, waited for, and cut. On the loop."""

    def __init__(self, server: DrainingHost) -> None:
        self._server = server
        # Requests that are not waited for: their own code waits for the end of the others, or
        # they were abandoned by an earlier shutdown.
        self._exempt: set[InProgress] = set()

    @property
    def begun(self) -> bool:
        """Whether the server drains."""
        return self._server.drain_event.is_set()

    async def end_requests(self, timeout: float | None) -> ShutdownReport:
        """Let the requests end, and cut those that have not after `timeout` seconds."""
        server = self._server
        self._exempt.intersection_update(server._requests)
        request = current.get()
        if request is not None:
            self._exempt.add(request)
        self._begin()
        looking = asyncio.create_task(self._end_idle()) if server._ends_idle else None
        finished = -server.statistics.finished
        cut = abandoned = 0
        try:
            gone = await self._all_gone(timeout)
            finished += server.statistics.finished
            if not gone:
                cut = len(server._requests.awaited(self._exempt))
                abandoned = await self._cut()
        finally:
            server._stop_accepting()
            if looking is not None:
                looking.cancel()
            server._client_log.end()
            if request is not None:
                self._exempt.discard(request)
        server._threads.end_idle()
        report = ShutdownReport(finished=finished, cut=cut, abandoned=abandoned)
        if cut:
            logger.info("shut down: %d requests finished, %d were cut", finished, cut)
        return report

    def _begin(self) -> None:
        server = self._server
        server.drain_event.set()
        for entry in server._requests:
            if isinstance(entry.request, StreamSocket):
                self.tell(entry.request, entry)

    def tell(self, connection: StreamSocket, entry: InProgress) -> None:
        """Have a connection know that its server drains."""
        loop = asyncio.get_running_loop()
        opened = loop.time() - (monotonic() - entry.begun_at)
        by_default = self._server._ends_idle
        connection._server_drains(LastWaits(loop, opened, by_default=by_default))

    async def _end_idle(self) -> None:
        """End what waits for idle clients outside of coroutine handlers, which see to it."""
        server = self._server
        while True:
            for entry in server._requests.awaited(self._exempt):
                if isinstance(entry, InThread):
                    entry.end_if_idle()
            server._stages.end_unheard()
            await asyncio.sleep(_LOOK)

    async def _all_gone(self, timeout: float | None) -> bool:
        """Accept what still waits, then wait for the end of all; False after `timeout` seconds."""
        server = self._server
        try:
            async with asyncio.timeout(timeout):
                await server._drain()
                await server._requests.wait(self._exempt)
                await server._stages.wait_closed()
        except TimeoutError:
            return False
        return True

    async def _cut(self) -> int:
        """End what is still in progress, by force if it must be; how many go on even so."""
        server = self._server
        server._stop_accepting()
        for request in server._requests.awaited(self._exempt):
            request.outcome = "cut"
            request.cancel()
        if await self._all_gone(_GRACE):
            return 0
        for request in server._requests.awaited(self._exempt):
            request.abort()
        server._stages.abort_closing()
        if await self._all_gone(_GRACE):
            return 0
        server._stages.abort_closing()
        abandoned = server._requests.awaited(self._exempt)
        # A later shutdown leaves them alone too.
        self._exempt.update(abandoned)
        for request in abandoned:
            logger.error(
                "%r, which serves %r, did not end when it was cut, and is abandoned",
                request,
                request.client_address,
                extra=request.log_extra(),
            )
        return len(abandoned)

"""The end of a server: new requests are not taken, those in progress end or are cut."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from time import monotonic
from typing import Annotated, Any, NamedTuple

from ..options import table as option
from ..requests import watchdog
from ..requests.entries import InProgress, InThread, current
from ..requests.pipeline import RequestPipeline
from ..sockets.last_waits import LastWaits
from ..sockets.stream import StreamSocket

logger = logging.getLogger("aiosocketserver")

# Seconds that a handler has after it was cancelled, and again after its connection was
# closed under it, before `shutdown` gives it up.
_GRACE = 1.0

# Seconds between two looks for clients that need not be waited for and tell nobody so.
_LOOK = 0.05

# Told apart from None, which means no deadline.
_OWN_TIMEOUT: Any = object()


class ShutdownReport(NamedTuple):
    """What became of the requests that were in progress when a shutdown began, or waited."""

    finished: int
    """Those that ended by themselves."""

    cut: int
    """Those that were cancelled at the deadline."""

    abandoned: int
    """Those among them that went on even so."""


class DrainingServer(RequestPipeline):
    """What `BaseServer` does from when a shutdown begins."""

    shutdown_timeout: Annotated[float | None, option.shutdown_timeout] = 5.0
    end_when_draining: Annotated[bool | None, option.end_when_draining] = None

    def __init__(self) -> None:
        super().__init__()
        self.drain_event = asyncio.Event()
        self._serving = False
        self._loop_thread: int | None = None
        # Set while serve_forever() waits.
        self._ended: asyncio.Future[None] | None = None
        self._fatal: BaseException | None = None
        # Requests that shutdown() does not wait for: their own code waits in it, or they were
        # abandoned by another one.
        self._shutting_down: set[InProgress] = set()

    @property
    def draining(self) -> bool:
        """Whether a shutdown has begun: handlers should end as soon as they can.

        May be read in any thread. `drain_event` is the same to wait for on the loop;
        see also `StreamSocket.end_when_draining`.
        """
        return self.drain_event.is_set()

    def shutdown(self, timeout: float | None = _OWN_TIMEOUT) -> Coroutine[Any, Any, ShutdownReport]:
        """Stop accepting, wait for the handlers, cut those that remain; a coroutine.

        Connections that the kernel's backlog holds are taken first. Handlers then have
        `timeout` seconds (default: `shutdown_timeout`; None: no limit) to end before
        they are cancelled; one that goes on even so loses its connection, and is at
        last reported to the log and left alone. Returns when all is gone, with what
        became of the requests, and `serve_forever` returns with it. The listening
        socket stays open, and `serve_forever` may follow.

        Called by a handler, directly or in a task of its own, it does not wait for
        that handler. Before the server serves, and again, it does nothing. It belongs
        to the loop's thread: in a legacy handler it raises RuntimeError, and
        `server.run_on_loop(server.shutdown)` does it.
        """
        if self._serving and threading.get_ident() != self._loop_thread:
            raise RuntimeError(
                "shutdown() was called outside the loop's thread: call "
                "server.run_on_loop(server.shutdown), which is thread-safe"
            )
        return self._shutdown(self.shutdown_timeout if timeout is _OWN_TIMEOUT else timeout)

    async def _shutdown(self, timeout: float | None) -> ShutdownReport:
        report = await self._end_requests(timeout)
        if self._ended is None:
            await self._raise_fatal()
        elif not self._ended.done():
            self._ended.set_result(None)
        return report

    async def _end_requests(self, timeout: float | None) -> ShutdownReport:
        self._shutting_down.intersection_update(self._requests)
        request = current.get()
        if request is not None:
            self._shutting_down.add(request)
        self._begin_draining()
        looking = asyncio.create_task(self._end_idle()) if self.end_when_draining else None
        finished = -self.statistics.finished
        cut = abandoned = 0
        try:
            gone = await self._all_gone(timeout)
            finished += self.statistics.finished
            if not gone:
                cut = len(self._requests.awaited(self._shutting_down))
                abandoned = await self._cut()
        finally:
            self._stop_accepting()
            if looking is not None:
                looking.cancel()
            self._client_log.end()
            if request is not None:
                self._shutting_down.discard(request)
        self._threads.end_idle()
        report = ShutdownReport(finished=finished, cut=cut, abandoned=abandoned)
        if cut:
            logger.info("shut down: %d requests finished, %d were cut", finished, cut)
        return report

    def _begin_draining(self) -> None:
        self.drain_event.set()
        for entry in self._requests:
            if isinstance(entry.request, StreamSocket):
                self._tell_draining(entry.request, entry)

    def _tell_draining(self, connection: StreamSocket, entry: InProgress) -> None:
        loop = asyncio.get_running_loop()
        opened = loop.time() - (monotonic() - entry.begun_at)
        by_default = bool(self.end_when_draining)
        connection._server_drains(LastWaits(loop, opened, by_default=by_default))

    async def _end_idle(self) -> None:
        """End what waits for idle clients outside of coroutine handlers, which see to it."""
        while True:
            for entry in self._requests.awaited(self._shutting_down):
                if isinstance(entry, InThread):
                    entry.end_if_idle()
            self._end_unheard()
            await asyncio.sleep(_LOOK)

    async def _all_gone(self, timeout: float | None) -> bool:
        """Accept what still waits, then wait for the end of all; False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._drain()
                await self._requests.wait(self._shutting_down)
                await self._wait_closed()
        except TimeoutError:
            return False
        return True

    async def _cut(self) -> int:
        """End what is still in progress, by force if it must be; how many go on even so."""
        self._stop_accepting()
        for request in self._requests.awaited(self._shutting_down):
            request.outcome = "cut"
            request.cancel()
        if await self._all_gone(_GRACE):
            return 0
        for request in self._requests.awaited(self._shutting_down):
            request.abort()
        self._abort_closing()
        if await self._all_gone(_GRACE):
            return 0
        self._abort_closing()
        abandoned = self._requests.awaited(self._shutting_down)
        # A later shutdown leaves them alone too.
        self._shutting_down.update(abandoned)
        for request in abandoned:
            logger.error(
                "%r, which serves %r, did not end when it was cut, and is abandoned",
                request,
                request.client_address,
                extra=request.log_extra(),
            )
        return len(abandoned)

    def _stop_because_of(self, error: BaseException) -> None:
        """SystemExit or KeyboardInterrupt in a handler: serve_forever() raises it at the end."""
        if self._fatal is None:
            self._fatal = error
        self._suspend_accepting()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _raise_fatal(self) -> None:
        # The first one, if the end brings more of them.
        error = self._fatal
        if error is not None:
            await self._end_requests(self.shutdown_timeout)
            if self._fatal is error:
                self._fatal = None
                raise error

    # What the kinds of sockets fill in

    def _suspend_accepting(self) -> None:
        """Accept nothing for now; what waits in the kernel can still be drained."""
        raise NotImplementedError

    def _stop_accepting(self) -> None:
        """Accept nothing more."""
        self._serving = False
        if self._loop is not None:
            watchdog.leave(self, self._loop)

    async def _drain(self) -> None:
        """Take what waits to be accepted, then accept nothing more."""

    def _end_unheard(self) -> None:
        """End the connections whose client has said nothing yet, or says nothing more."""

    async def _wait_closed(self) -> None:
        """Return when the sockets of the requests that have ended are closed."""

    def _abort_closing(self) -> None:
        """Close the sockets that are still on their way to being closed."""

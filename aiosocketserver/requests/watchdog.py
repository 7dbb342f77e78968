"""Finds code that holds the event loop, while it does: a thread that the loop has to answer.

It reports from outside, because what holds the loop may never let it go: two handlers in
greenlets, of which one waits for its client with a lock that the other one wants, stop
the process for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sysconfig
import threading
import time
import traceback
import weakref
from collections.abc import Mapping
from types import FrameType
from typing import Any

from ..cpython import frames_of_threads
from .entries import InProgress
from .pipeline import RequestPipeline

logger = logging.getLogger("aiosocketserver")

# Seconds between two looks at the same hold, and how many there are.
_MOMENT = 0.01
_LOOKS = 3

# Places that are reported; after so many there is no more to learn.
_MOST_PLACES = 1000

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARIES = tuple(
    os.path.abspath(path) + os.sep
    for path in {
        _PACKAGE,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)

# The functions that serve a request, which have `self`, the server, and its `entry`.
serving = {RequestPipeline._serve.__code__}

_watchdogs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog] = (
    weakref.WeakKeyDictionary()
)


def watch(server: RequestPipeline, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Report what holds the loop for longer than `seconds`, until `leave`. On the loop's thread."""
    watchdog = _watchdogs.get(loop)
    if watchdog is not None:
        watchdog.servers[server] = seconds
        return
    watchdog = Watchdog(loop)
    watchdog.servers[server] = seconds
    try:
        watchdog.start()
    except RuntimeError as error:
        # None can be started: Python 3.12 does not once the main thread has ended.
        logger.warning("what holds the loop will not be told: %s", error)
        return
    _watchdogs[loop] = watchdog


def leave(server: RequestPipeline, loop: asyncio.AbstractEventLoop) -> None:
    """Watch no more for this server. Again, it does nothing."""
    watchdog = _watchdogs.get(loop)
    if watchdog is None or server not in watchdog.servers:
        return
    del watchdog.servers[server]
    if not watchdog.servers:
        del _watchdogs[loop]
        watchdog.stop()


class Watchdog(threading.Thread):
    """Asks one loop again and again whether it still runs, and looks at it when it does not."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="aiosocketserver watchdog", daemon=True)
        self.servers: dict[RequestPipeline, float] = {}
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._places: set[tuple[str, int]] = set()

    def stop(self) -> None:
        """End the thread, without waiting for it."""
        self._stopped.set()

    def run(self) -> None:
        while True:
            seconds = min(list(self.servers.values()), default=1.0)
            # Without a request there is no handler that could hold it.
            if any(len(server._requests) for server in list(self.servers)):
                answered = threading.Event()
                try:
                    self._loop.call_soon_threadsafe(answered.set)
                except RuntimeError:
                    # The loop is closed.
                    return
                begun = time.monotonic()
                if not answered.wait(seconds):
                    self._look(begun)
                    while not (answered.wait(1.0) or self._stopped.is_set()):
                        pass
            if self._stopped.wait(seconds / 2):
                return

    def _look(self, begun: float) -> None:
        frame = frames_of_threads().get(self._loop_thread)
        if frame is None:
            return
        server, entry, place = _holder(frame)
        # Nothing but the loop itself waits for the processor, and many requests in one turn
        # of the loop hold it together: nobody in particular does.
        if place is None or self._goes_on(entry, place):
            return
        held = time.monotonic() - begun
        for each in [server] if server is not None else list(self.servers):
            each.statistics.loop_blocked += 1
        where = place.f_code.co_filename, place.f_lineno
        if where in self._places or len(self._places) >= _MOST_PLACES:
            return
        self._places.add(where)
        what = "code that belongs to no request"
        if server is not None and entry is not None:
            handler = getattr(server.RequestHandlerClass, "__qualname__", "a handler")
            what = f"{handler}, which serves {entry.client_address!r}"
        logger.warning(
            "the loop has been held for %.2f s by %s, and all clients with it: "
            "%s line %d, in %s\n%s",
            held,
            what,
            *where,
            place.f_code.co_name,
            "".join(traceback.format_stack(frame, _frames_up_to(frame, place))).rstrip(),
            extra={} if entry is None else entry.log_extra(),
        )

    def _goes_on(self, entry: InProgress | None, place: FrameType) -> bool:
        """Whether something else runs a moment later."""
        # More than once, for the loop's thread may have to wait for the processor.
        for _ in range(_LOOKS):
            self._stopped.wait(_MOMENT)
            frame = frames_of_threads().get(self._loop_thread)
            if frame is None:
                return True
            _, later, other = _holder(frame)
            if later is not entry or (entry is None and other is not place):
                return True
        return False


def _holder(frame: FrameType) -> tuple[RequestPipeline | None, InProgress | None, FrameType | None]:
    """Who runs in a stack of the loop's thread: the server, the request, and where in its code.

    The place is the innermost frame that is neither this package's nor a library's, or
    just the innermost when a request is served by libraries alone.
    """
    place: FrameType | None = None
    each: FrameType | None = frame
    while each is not None:
        if each.f_code in serving:
            found: Mapping[str, Any] = each.f_locals
            return found["self"], found["entry"], place or frame
        if place is None and not each.f_code.co_filename.startswith(_LIBRARIES):
            place = each
        each = each.f_back
    return None, None, place


def _frames_up_to(frame: FrameType, place: FrameType) -> int:
    """How many frames there are from the innermost one to `place`."""
    count = 1
    current: FrameType | None = frame
    while current is not None and current is not place:
        count += 1
        current = current.f_back
    return count

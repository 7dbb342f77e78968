"""The accept loop: batches, and pauses while there is no room or something is short.

Each server that accepts has one: the core's in its `Listener`, compat's in its `Serving`. How one
request is taken, and what each error of that means, differs between them: `take` tells.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable

from ..requests.back_off import BackOff


class Taken(enum.Enum):
    """What an attempt to take a request came to."""

    # A request was taken, or lost; another one may wait.
    ONE = enum.auto()
    # Nobody waits any more.
    ALL = enum.auto()
    # Something is short: those who wait can be taken later.
    NOT_NOW = enum.auto()
    # Nothing more is to be taken: the server ends, or its socket is closed.
    NO_MORE = enum.auto()


class AcceptLoop:
    """Has the requests of one descriptor taken as they come.

    When the descriptor has requests, `on_readable` is called; it calls `take_batch`, which calls
    `take` for each. `take` also starts what serves the request, and raises nothing that concerns
    this request alone: `take_batch` lets through what it raises. While `may_take()` is False there
    is no room for another request: the loop pauses, and the kernel's backlog holds the rest, until
    `resume` is called. At a shortage it pauses for as long as `back_off` says. `on_pause` is called
    at each pause. `watch` is the event loop's `add_reader`, or one that does more. All methods run
    on the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        back_off: BackOff,
        *,
        watch: Callable[[int, Callable[[], object]], object],
        on_readable: Callable[[], object],
        take: Callable[[], Taken],
        may_take: Callable[[], bool],
        on_pause: Callable[[], object],
    ) -> None:
        self._loop = loop
        # Needed to take it off the loop when somebody has closed the socket itself.
        self._descriptor = descriptor
        self._back_off = back_off
        self._watch = watch
        self._on_readable = on_readable
        self._take = take
        self._may_take = may_take
        self._on_pause = on_pause
        self._registered = False
        self._stopped = False

    def start(self) -> None:
        """Take requests from now on, or again after `stop`."""
        self._stopped = False
        self._watch(self._descriptor, self._on_readable)
        self._registered = True

    def may_resume(self) -> bool:
        """Whether there is a pause that may end: there is room again, and no shortage."""
        held = self._registered or self._stopped or self._back_off.lasts
        return not held and self._may_take()

    def resume(self) -> None:
        """Go on after a pause, if it may end."""
        if self.may_resume():
            self.start()

    def pause(self) -> None:
        """Take nothing until `resume` or `take_batch`, after a `stop` too."""
        self._stopped = False
        self._unwatch()

    def stop(self) -> None:
        """Take nothing until `start` or `pause`."""
        self._stopped = True
        self._unwatch()
        self._back_off.stop()

    def take_batch(self, limit: int) -> bool:
        """Take what waits, or `limit` of it. False if that is to go on after a pause."""
        for _ in range(limit):
            # The previous request may have done it, if it began at once.
            if self._stopped:
                break
            if not self._may_take():
                self._unwatch()
                self._on_pause()
                return False
            taken = self._take()
            if taken is Taken.ALL:
                self._back_off.emptied()
                break
            if taken is Taken.NOT_NOW:
                self._unwatch()
                self._back_off.start()
                self._on_pause()
                return False
            if taken is Taken.NO_MORE:
                self.stop()
                break
        return True

    def _unwatch(self) -> None:
        if self._registered:
            self._registered = False
            self._loop.remove_reader(self._descriptor)

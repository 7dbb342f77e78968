"""A worker as its parent sees it: a process, what it has told, and how long it may take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any

from ..requests.children import ChildWatch
from .channel import Channel
from .settings import BEAT
from .snapshots import Snapshot

# Without a sign of life for this many seconds, a worker does not count as one that serves.
_SILENT = 5 * BEAT

# Seconds that a worker has to end beyond its `shutdown_timeout`: two in which `shutdown` cuts
# what is left, and one for the rest. It ends itself a little before: see `ending`.
_END = 3.0


@dataclass(frozen=True)
class Limits:
    """Seconds that a worker may take."""

    silence: float
    """Without a sign of life."""

    start: float
    """From its start until it serves."""


class Worker:
    """One process, as its parent sees it."""

    def __init__(self, slot: int, pid: int, loop: asyncio.AbstractEventLoop) -> None:
        self.slot = slot
        self.pid = pid
        self.begun_at = self.seen_at = loop.time()
        self.channel: Channel | None = None
        self.watch: ChildWatch | None = None
        # Whether it serves, as soon as that is known, and its exit code.
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        # By number, those who wait for its counters.
        self.asking: dict[int, asyncio.Future[None]] = {}
        self.snapshot = Snapshot()
        # It was told to end, and when.
        self.stopping = False
        self._stopped_at = 0.0
        # What it has told: that it drains, and how long that may take.
        self._draining = False
        self._shutdown_timeout: float | None = 0.0
        # It takes too long: it was asked where it hangs, and killed.
        self.asked_where = False
        self.killed = False

    def __str__(self) -> str:
        return f"worker {self.slot + 1} (process {self.pid})"

    @property
    def shutdown_timeout(self) -> float | None:
        """Seconds that it has to drain: none before it serves; None for ever."""
        return self._shutdown_timeout if self.has_served else 0.0

    @property
    def has_served(self) -> bool:
        """Whether it lives, and has begun to serve."""
        return self.ready.done() and self.ready.result() and not self.ended.done()

    def accepts(self, now: float) -> bool:
        """Whether it accepts requests, as far as is known at the loop's time `now`."""
        return (
            self.has_served
            and not self.stopping
            and not self._draining
            and now - self.seen_at <= _SILENT
        )

    async def starts(self) -> bool:
        """Wait until it serves, or has ended before."""
        # A future that is awaited by itself would be cancelled with who awaits it.
        await asyncio.wait([self.ready])
        return self.ready.result()

    async def ends(self) -> None:
        """Wait until it has ended."""
        await asyncio.wait([self.ended])

    def told(self, message: dict[str, Any], now: float) -> None:
        """Take in what it has told."""
        self.seen_at = now
        self.snapshot = Snapshot.from_json(message["snapshot"])
        self._draining = message["phase"] == "draining"
        self._shutdown_timeout = message["shutdown_timeout"]
        if message["phase"] != "starting" and not self.ready.done():
            self.ready.set_result(True)

    def overdue(self, now: float, limits: Limits) -> str | None:
        """What takes it too long, if something does."""
        if self.ended.done():
            return None
        started = self.has_served
        if self.stopping:
            limit = self.shutdown_timeout
            if limit is not None and now - self._stopped_at > limit + _END:
                return f"has not ended in {now - self._stopped_at:.1f} s"
        elif not started and now - self.begun_at > limits.start:
            return f"does not serve {now - self.begun_at:.1f} s after its start"
        if started and now - self.seen_at > limits.silence:
            return f"gave no sign of life for {now - self.seen_at:.1f} s"
        return None

    def forgive(self, seconds: float) -> None:
        """Do not count the last seconds, in which nobody could have heard of it."""
        self.begun_at += seconds
        self.seen_at += seconds
        self._stopped_at += seconds

    def stop(self, now: float) -> None:
        """Have it drain."""
        if not self.stopping:
            self.stopping = True
            self._stopped_at = now
        self.kill(signal.SIGTERM)

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, and to nobody who got its number afterwards."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

"""What a service counts: the statistics of its servers in one process, or of all processes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..requests.statistics import RequestEnd
from ..servers.datagram import UDPServer
from ..servers.socket_server import SocketServer
from . import log_output

# Upper limits in seconds; above the last one there is another bucket.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)

# The counters of `Statistics` that are numbers.
_COUNTERS = (
    "accepted",
    "finished",
    "clients_vanished",
    "handlers_failed",
    "handshakes_failed",
    "bytes_received",
    "bytes_sent",
    "accept_pauses",
    "datagrams_received",
    "datagrams_dropped",
    "datagrams_truncated",
)


@dataclass
class Snapshot:
    """Counters at one moment. Two of them can be added."""

    active: int = 0
    counters: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    timed_out: Counter[str] = field(default_factory=Counter[str])
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0
    """What the requests in the buckets took all together."""

    @classmethod
    def of(cls, servers: Sequence[SocketServer], durations: Durations) -> Snapshot:
        """Of the servers of this process."""
        made = cls(buckets=list(durations.buckets), seconds=durations.seconds)
        for server in servers:
            statistics = server.statistics
            made.active += statistics.active
            made.counters.update({name: getattr(statistics, name) for name in _COUNTERS})
            if isinstance(server, UDPServer):
                dropped = server.datagrams_dropped_by_kernel or 0
                made.counters["datagrams_dropped_by_kernel"] += dropped
            made.refused.update(statistics.refused)
            made.timed_out.update(statistics.timed_out)
        made.counters["log_records_dropped"] = log_output.dropped()
        return made

    @classmethod
    def total(cls, snapshots: Iterable[Snapshot]) -> Snapshot:
        """The sum of them all."""
        total = cls()
        for each in snapshots:
            total.active += each.active
            total.counters.update(each.counters)
            total.refused.update(each.refused)
            total.timed_out.update(each.timed_out)
            total.buckets = [a + b for a, b in zip(total.buckets, each.buckets, strict=True)]
            total.seconds += each.seconds
        return total

    def to_json(self) -> dict[str, Any]:
        """For `from_json` in another process."""
        return vars(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Snapshot:
        """What `to_json` has made."""
        made = cls(**value)
        for name in ("counters", "refused", "timed_out"):
            setattr(made, name, Counter(value[name]))
        return made


@dataclass(frozen=True)
class State:
    """What a service is doing."""

    ready: bool
    """Whether it accepts requests: not yet, and not any more while it drains."""

    workers: int
    """Processes that serve."""

    restarts: int
    """Workers that were replaced because they had ended."""


class Durations:
    """How long requests took, in buckets: an observer of requests."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def __call__(self, end: RequestEnd) -> None:
        """Count one."""
        self.buckets[bisect_left(BUCKETS, end.seconds)] += 1
        self.seconds += end.seconds

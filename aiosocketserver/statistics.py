"""What a server counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Statistics:
    """The counters of one server since it was made. Read them from any thread."""

    clients_vanished: int = 0
    """Requests that ended because the client's connection broke, timed out or was cut."""

    handlers_failed: int = 0
    """Requests whose handler raised anything else."""

    handshakes_failed: int = 0
    """Connections whose TLS handshake failed, other than by `handshake_timeout`."""

    refused: Counter[str] = field(default_factory=Counter[str])
    """Connections that were closed because of a limit, by the name of its option."""

    timed_out: Counter[str] = field(default_factory=Counter[str])
    """Requests that a time-out of the server has cut, by the name of its option."""

    datagrams_dropped: int = 0
    """Datagrams dropped because `max_concurrency` handlers ran and `max_queue` waited."""

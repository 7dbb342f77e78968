"""What a server counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..sockets.traffic import Traffic


class RequestEnd(NamedTuple):
    """What became of one request."""

    client_address: Any

    request_id: int
    """The number in log records."""

    seconds: float
    """From when it was accepted, or received."""

    outcome: str
    """`finished`, `failed` (the handler), `vanished` (the client), `handshake`, `refused`, `cut`
    (at a shutdown), or the name of the time-out that struck."""

    bytes_received: int | None
    """What a handler on the loop, a coroutine or in a greenlet, received on its connection,
    decrypted; None for other handlers and for datagrams."""

    bytes_sent: int | None
    """What it has sent."""


@dataclass(slots=True)
class Statistics:
    """The counters of one server since it was made. Read them from any thread.

    A request is a connection, or a datagram that a handler got.
    """

    accepted: int = 0
    """Requests that were taken on."""

    finished: int = 0
    """Requests that have ended, however they did."""

    peak: int = 0
    """The most requests that were in progress at once."""

    handling_time: float = 0.0
    """Seconds that the requests that have ended took, all together."""

    clients_vanished: int = 0
    """Requests that ended because the client's connection broke or was cut."""

    handlers_failed: int = 0
    """Requests whose handler raised anything else."""

    handshakes_failed: int = 0
    """Connections whose TLS handshake failed, other than by `handshake_timeout`."""

    refused: Counter[str] = field(default_factory=Counter[str])
    """Connections that were closed because of a limit, by the name of its option; `memory` for
    those that there was no memory for."""

    timed_out: Counter[str] = field(default_factory=Counter[str])
    """Requests that a time-out of the server has cut, by the name of its option."""

    loop_blocked: int = 0
    """How often a handler has held the loop for longer than `blocking_warning`."""

    accept_pauses: int = 0
    """How often accepting has paused, at a limit or for want of descriptors, memory, threads or
    children."""

    datagrams_received: int = 0
    """Datagrams that were read, those included that were dropped then."""

    datagrams_dropped: int = 0
    """Datagrams dropped because `max_concurrency` handlers ran and `max_queue` waited."""

    datagrams_truncated: int = 0
    """Datagrams longer than `max_packet_size`, of which a handler got the beginning."""

    traffic: Traffic = field(default_factory=Traffic, repr=False, compare=False)
    """The bytes, which the connections count themselves."""

    @property
    def active(self) -> int:
        """Requests that are in progress."""
        # In this order: one that ends in between is not counted as less than nothing.
        finished = self.finished
        return self.accepted - finished

    @property
    def bytes_received(self) -> int:
        """Bytes that handlers on the loop received on their connections, without TLS's own."""
        return self.traffic.received

    @property
    def bytes_sent(self) -> int:
        """Bytes that handlers on the loop sent on their connections, without TLS's own."""
        return self.traffic.sent

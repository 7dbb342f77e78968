"""What is shown of a request that is in progress."""

from __future__ import annotations

from time import monotonic
from typing import Any, NamedTuple

from ..sockets.stream import StreamSocket
from .entries import InProgress


class RequestInProgress(NamedTuple):
    """A request that a server is serving, as it was when somebody asked: see `requests()`."""

    request_id: int
    """The number in log records."""

    client_address: Any
    """What `get_request` returned, or a proxy has said."""

    seconds: float
    """Since it was accepted, or received."""

    kind: str
    """What serves it: a `task`, which also does what comes before a thread or child, a
    `greenlet`, a `thread` or a `child`."""

    waits_for: str | None
    """`reading` or `writing`, where a handler on the loop waits for its client; `proxy` for the
    PROXY header, `handshake` for that of TLS, `start` while its thread or child cannot be
    started; None where it runs, or waits for what the server knows nothing of."""

    bytes_received: int | None
    """What a handler on the loop, a coroutine or in a greenlet, has received on its connection,
    decrypted; None for other handlers and for datagrams."""

    bytes_sent: int | None
    """What it has sent."""


def view_of(entry: InProgress, waits_for: str | None) -> RequestInProgress:
    """What is shown of a request."""
    connection = entry.request
    received = sent = None
    if isinstance(connection, StreamSocket):
        received, sent = connection._received, connection._total_sent()
    seconds = monotonic() - entry.begun_at
    return RequestInProgress(
        entry.id, entry.client_address, seconds, entry.kind, waits_for, received, sent
    )

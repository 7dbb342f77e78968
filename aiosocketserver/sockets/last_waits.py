"""Until when a handler may wait for its client once the server shuts down.

Nobody tells the server where a message of its handlers' protocol begins and ends. What it
knows is who has spoken last: a client that was answered, and has said nothing since, asks
for nothing (docs/behaviour.md, "Idle clients").
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

# Seconds that a new connection has for the first byte of its first message, which is most
# often right behind the handshake: one lost packet is sent again within them.
FIRST_MESSAGE = 0.5

# Seconds of silence after which nothing more of a message is expected that has no answer yet:
# it may be one that gets none, or come in parts.
UNANSWERED = 1.0


class Waits(Protocol):
    """The socket that waits for input, as far as it matters here."""

    # Bytes that it has received in all, and had when it was last answered.
    _received: int
    _answered: int
    # What it had received when the handler was given it, and when that was.
    _opening: tuple[int, float]

    # What the handler has said: see `StreamSocket.end_when_draining`.
    @property
    def _ends_when_draining(self) -> bool | None: ...
    # The request that it belongs to.
    @property
    def _owner(self) -> object: ...
    def _is_in_a_message(self) -> bool: ...


class LastWaits:
    """When the waits of one connection end. Made when the server begins to shut down.

    - opened: when the connection was accepted, on the loop's clock
    - by_default: whether a wait ends of which the handler has said nothing
    """

    __slots__ = ("_by_default", "_loop", "_opened", "_received", "_silent_since")

    def __init__(self, loop: asyncio.AbstractEventLoop, opened: float, *, by_default: bool) -> None:
        self._loop = loop
        self._opened = opened
        self._by_default = by_default
        # How much the client had sent when it fell silent, and when that was noticed.
        self._received = -1
        self._silent_since = 0.0

    def end(self, sock: Waits) -> float:
        """When a wait for input ends that goes on or begins now, on the loop's clock.

        Infinity for one that the shutdown does not end. To be called by who waits.
        """
        said = sock._ends_when_draining
        ends = self._by_default and self._handler_itself_waits(sock) if said is None else said
        if not ends or sock._is_in_a_message():
            return math.inf
        received = sock._received
        before, opened = sock._opening
        if received == before:
            return max(opened, self._opened) + FIRST_MESSAGE
        if said or sock._answered == received:
            return -math.inf
        if received != self._received:
            self._received = received
            self._silent_since = self._loop.time()
        return self._silent_since + UNANSWERED

    def _handler_itself_waits(self, sock: Waits) -> bool:
        """False where another task of the handler waits: the handler may be doing what the
        client has asked for, and have that one tell when the client has gone.
        """
        task = asyncio.current_task(self._loop)
        # There is none in a greenlet, where nobody but the handler can wait.
        return task is None or task is getattr(sock._owner, "task", None)

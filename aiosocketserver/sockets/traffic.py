"""Bytes that the connections of one server have moved together."""

from __future__ import annotations


class Traffic:
    """Two counters that only grow: written on the loop's thread, read in any."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0

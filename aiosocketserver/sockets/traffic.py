"""Bytes that the connections of one server have moved together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..compiled import native


class PythonTraffic:
    """Two counters that only grow: written on the loop's thread, read in any."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


Traffic = PythonTraffic
if native is not None and not TYPE_CHECKING:
    Traffic = native.Traffic

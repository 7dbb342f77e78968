"""Bytes received and not yet read: lines and blocks out of arbitrary segments.

No I/O: bytes in, values out. `None` always means "not yet: feed me more".
"""

from __future__ import annotations


class ReceiveBuffer:
    """What arrived from the peer and nobody has read yet.

    The common case is one segment that holds whole lines: it stays the `bytes` object
    that `recv` returned, and lines are slices of it. Only what has to wait for another
    segment is gathered in a `bytearray`, so that a line in n segments costs O(n).
    """

    __slots__ = ("_data", "_searched", "_separator", "_start")

    def __init__(self) -> None:
        self._data: bytes | bytearray = b""
        self._start = 0
        # Up to where `_separator` has been looked for and not found.
        self._searched = 0
        self._separator: bytes = b""

    def __len__(self) -> int:
        return len(self._data) - self._start

    def feed(self, data: bytes) -> bool:
        """Add what was received; False for `b""`, which is the end."""
        if self._start == len(self._data):
            self._data = data
            self._start = self._searched = 0
            return data != b""
        if isinstance(self._data, bytes):
            self._data = bytearray(memoryview(self._data)[self._start :])
        elif self._start:
            del self._data[: self._start]
        self._searched = max(0, self._searched - self._start)
        self._start = 0
        self._data += data
        return data != b""

    def feed_until(self, data: bytes, separator: bytes, limit: int) -> bytes | None:
        """`feed` what was received, then `take_until`: most often it is just one line."""
        if self._start == len(self._data):
            end = data.find(separator, 0, limit) + len(separator)
            if end == len(data) and data.endswith(separator):
                return data
        self.feed(data)
        return self.take_until(separator, limit)

    def take(self, size: int) -> bytes:
        """At most `size` bytes, fewer if there are fewer."""
        start = self._start
        self._start = end = min(start + size, len(self._data))
        chunk = self._data[start:end]
        return chunk if type(chunk) is bytes else bytes(chunk)

    def take_all(self) -> bytes:
        """Everything that is there."""
        return self.take(len(self._data))

    def take_exactly(self, size: int) -> bytes | None:
        """`size` bytes, or None while there are fewer."""
        return self.take(size) if len(self) >= size else None

    def take_until(self, separator: bytes, limit: int) -> bytes | None:
        """The bytes up to and with `separator`, or None while it is not there.

        Raises OverflowError, and takes nothing, as soon as it is certain that they
        would be more than `limit` bytes.
        """
        start = self._start
        if start == len(self._data):
            return None
        searched = self._searched
        if searched < start or separator != self._separator:
            searched = start
        limited = start + limit
        found = self._data.find(separator, searched, limited)
        if found < 0:
            available = len(self._data)
            # The separator's beginning may be at the end of what was searched.
            self._searched = max(start, min(available, limited) - len(separator) + 1)
            self._separator = separator
            if available >= limited:
                raise OverflowError(limit)
            return None
        end = found + len(separator)
        self._start = end
        chunk = self._data[start:end]
        return chunk if type(chunk) is bytes else bytes(chunk)

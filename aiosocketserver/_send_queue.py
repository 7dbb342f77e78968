"""Bytes that wait to be sent: whole writes in, blocks for the kernel out.

No I/O. Positions count the bytes of the whole connection: `queued` is where the next
write will end up, `sent` is what the kernel has taken.
"""

from __future__ import annotations

# Small writes are joined up to this size for one system call; a larger write goes
# alone, so that what it leaves over is not copied again for each small one behind it.
JOIN_SIZE = 64 * 1024


class SendQueue:
    """The writes of one socket that the kernel has not taken yet, in call order."""

    __slots__ = ("_writes", "held_from", "queued", "sent")

    def __init__(self) -> None:
        # A list and not a deque, which takes 600 bytes for each connection.
        self._writes: list[bytes | memoryview] = []
        self.queued = 0
        self.sent = 0
        # While a `sendall` is under way, what was written after it was called stays:
        # the position from which on bytes are held back, or None.
        self.held_from: int | None = None

    def __len__(self) -> int:
        return self.queued - self.sent

    @property
    def sendable(self) -> bool:
        """Whether there are bytes that may leave now."""
        return self.sent < (self.queued if self.held_from is None else self.held_from)

    def append(self, data: bytes) -> int:
        """Add one write; how many bytes are now here.

        It must be `bytes`: nobody may change it until it is sent.
        """
        if data:
            self._writes.append(data)
            self.queued += len(data)
        return self.queued - self.sent

    def next_block(self) -> bytes | memoryview:
        """The next bytes to send, as one object. It stays here until `consume`."""
        writes = self._writes
        if len(writes) > 1:
            end = self.queued if self.held_from is None else self.held_from
            room = min(JOIN_SIZE, end - self.sent)
            count = 0
            for write in writes:
                room -= len(write)
                if room < 0:
                    break
                count += 1
            if count > 1:
                writes[:count] = [b"".join(writes[:count])]
        return writes[0]

    def consume(self, size: int) -> None:
        """Forget the first `size` bytes of `next_block`: the kernel has them."""
        self.sent += size
        first = self._writes[0]
        if size < len(first):
            self._writes[0] = memoryview(first)[size:]
        else:
            del self._writes[0]

    def clear(self) -> None:
        """Forget everything: the connection is broken."""
        self._writes.clear()
        self.sent = self.queued

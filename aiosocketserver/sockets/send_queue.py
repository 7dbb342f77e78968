"""Bytes that wait to be sent: whole writes in, blocks for the kernel out.

No I/O of its own. Positions count the bytes of the whole connection: `queued` is where
the next write will begin, `sent` is up to where the kernel has taken them.
"""

from __future__ import annotations

from collections.abc import Callable

# Small writes are joined up to this size for one system call; a larger write goes
# alone, so that what it leaves over is not copied again for each small one behind it.
JOIN_SIZE = 64 * 1024


class SendQueue:
    """The writes of one socket that the kernel has not taken yet, in call order.

    While a `sendall` is under way, what was written after it was called is held back
    (`hold`, `release`): bytes may leave up to the position `limit`. There is something
    to send when `sent != limit`, and something left when `sent != queued`.
    """

    __slots__ = ("_held", "_writes", "limit", "queued", "sent")

    def __init__(self) -> None:
        # A list and not a deque, which takes 600 bytes for each connection.
        self._writes: list[bytes | memoryview] = []
        self._held = False
        self.limit = 0
        self.queued = 0
        self.sent = 0

    def __len__(self) -> int:
        return self.queued - self.sent

    def append(self, data: bytes) -> int:
        """Add one write; how many bytes are now here.

        It must be `bytes`: nobody may change it until it is sent.
        """
        if data:
            self._writes.append(data)
            self.queued += len(data)
            if not self._held:
                self.limit = self.queued
        return self.queued - self.sent

    def hold(self) -> None:
        """Keep what is written from now on until `release`."""
        self._held = True

    def release(self) -> None:
        """Let everything leave."""
        self._held = False
        self.limit = self.queued

    def send(self, send: Callable[[bytes | memoryview], int]) -> None:
        """Give all that may leave to `send`, which tells how many bytes it took.

        What `send` raises passes through, and the bytes it did not take stay.
        """
        writes = self._writes
        while self.sent != self.limit:
            if len(writes) > 1:
                self._join()
            block = writes[0]
            count = send(block)
            self.sent += count
            if count == len(block):
                del writes[0]
            else:
                writes[0] = memoryview(block)[count:]

    def _join(self) -> None:
        """Make one block of the first writes, if there are small ones."""
        room = min(JOIN_SIZE, self.limit - self.sent)
        count = 0
        for write in self._writes:
            room -= len(write)
            if room < 0:
                break
            count += 1
        if count > 1:
            self._writes[:count] = [b"".join(self._writes[:count])]

    def clear(self) -> None:
        """Forget what has not been sent: the connection is broken."""
        self._writes.clear()
        self.limit = self.queued = self.sent

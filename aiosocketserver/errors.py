"""The exceptions that this package adds to those of `socket` and `asyncio`."""

from __future__ import annotations


class LimitExceeded(ValueError):
    """A line or block of a client is longer than the server's option allows.

    Nothing was taken from the file: what had arrived is still there for `read1`, and
    the connection can go on.
    """


class TimedOut(TimeoutError):
    """A time-out of the server has struck: the connection will be closed.

    Raised where the handler waits, and again at each further wait for the client. A
    time-out that the handler has set itself, with `settimeout`, is a plain
    TimeoutError.
    """

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option
        """Its name, as "idle_timeout"."""

    def __str__(self) -> str:
        return f"timed out: the server's {self.option} has passed"

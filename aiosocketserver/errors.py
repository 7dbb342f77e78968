"""The exceptions that this package adds to those of `socket` and `asyncio`."""

from __future__ import annotations


class LimitExceeded(ValueError):
    """A line or block of a client is longer than the server's option allows.

    Nothing was taken from the file: what had arrived is still there for `read1`, and
    the connection can go on.
    """

"""How log records are written by a service: nothing in them looks like another record."""

from __future__ import annotations

import logging

from ..logs.printable import printable

# What the lines of a record have before them after the first: the traceback's, and those
# of an error's text that a client has caused, or written.
_INDENT = "    "


class LineFormatter(logging.Formatter):
    """A formatter whose records begin in the first column, and nothing else does."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with escapes for what is not printable."""
        first, *others = super().format(record).split("\n")
        return "\n".join([printable(first), *(_INDENT + printable(line) for line in others)])

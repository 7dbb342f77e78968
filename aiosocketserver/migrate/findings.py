"""What the migration tells of a file: plain values, for the command to print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """Something at a place of the source.

    `line` and `column` count from 1; `way_out` says what to do about it, or is empty.
    """

    line: int
    column: int
    what: str
    way_out: str = ""


@dataclass(frozen=True)
class HandlerReport:
    """What has become of a handler class, and of those that derive from it in the source.

    - handlers: their names; `line` and `column` are where the first of them begins
    - converted: whether they are coroutine handlers now
    - obstacles: what cannot be proved, or not be written with coroutines; with any of
      them the classes are left alone
    - blocking: calls that would stop the loop, or do something else in a coroutine; with
      any of them the classes are left alone unless forced
    - notes: what differs after the conversion
    """

    handlers: tuple[str, ...]
    line: int
    column: int
    converted: bool
    obstacles: tuple[Finding, ...]
    blocking: tuple[Finding, ...]
    notes: tuple[Finding, ...]


@dataclass(frozen=True)
class Migration:
    """A source after the migration, with what is told of its legacy handlers."""

    source: bytes
    reports: tuple[HandlerReport, ...]


class UnreadableSource(Exception):
    """A source that is no Python 3; `line` counts from 1, and is 0 when nobody knows."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line

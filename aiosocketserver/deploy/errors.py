"""What keeps a service from starting, and how it is told."""

from __future__ import annotations

import sys
import traceback

from .log_output import tell


class StartError(ValueError):
    """A service cannot start: a setting, a bind or the target is wrong.

    The message is one line that says what was wrong, what was given and what would be
    right.
    """

    shows_cause = False
    """Whether its cause was raised by the user's own code, who wants to see where."""


def report(error: StartError) -> None:
    """Write it to standard error: a line, and the traceback before if the user's code raised it."""
    cause = traceback.format_exception(error.__cause__) if error.shows_cause else []
    tell("".join([*cause, f"aiosocketserver: {error}\n"]))


def report_crash(error: BaseException) -> None:
    """Write the traceback to standard error, or do what the program has set for that."""
    if sys.excepthook is sys.__excepthook__:
        tell("".join(traceback.format_exception(error)))
    else:
        sys.excepthook(type(error), error, error.__traceback__)

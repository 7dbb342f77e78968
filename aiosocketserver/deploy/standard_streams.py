"""Descriptors 0, 1 and 2: a service that was started without them gets /dev/null."""

from __future__ import annotations

import os
import sys

_STANDARD = (0, 1, 2)


def open_standard_streams() -> None:
    """Open what is missing, before a socket gets its number and log lines are written into it.

    `sys.stdin`, `sys.stdout` and `sys.stderr`, which Python has left at None, are there then.
    """
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            _open_null(descriptor)
    for descriptor, name in zip(_STANDARD, ("stdin", "stdout", "stderr"), strict=True):
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - the process's


def put_aside(descriptor: int) -> int:
    """The descriptor, or another one of the same file in the place of a standard one.

    A socket may be passed on as standard input, as inetd does. It is no place for output,
    and nothing for the programs that handlers start.
    """
    if descriptor not in _STANDARD:
        return descriptor
    moved = os.dup(descriptor)
    _open_null(descriptor)
    return moved


def _open_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == descriptor:
        os.set_inheritable(null, True)
    else:
        os.dup2(null, descriptor)
        os.close(null)

"""The time-out of a server's own socket while a loop reads it.

The kernel's flag O_NONBLOCK belongs to every process that shares the socket: one that
put it back, because it has ended, would have the others' loops block in accept(2). So
it stays, and only Python's time-outs are put back.
"""

from __future__ import annotations

import os
import socket


def set_while_read(sock: socket.socket, timeout: float | None) -> float | None:
    """Give `sock` this time-out, which is 0 or None; what to `put_back` afterwards."""
    before = sock.gettimeout()
    if before is None and timeout == 0:
        os.set_blocking(sock.fileno(), False)
    elif before != timeout:
        sock.settimeout(timeout)
    return before


def put_back(sock: socket.socket, timeout: float | None) -> None:
    """Give `sock` the time-out that it had, if it had one."""
    if timeout is not None:
        sock.settimeout(timeout)

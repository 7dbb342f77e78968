"""The time-out of a server's own socket while a loop reads it.

The kernel's flag O_NONBLOCK belongs to every process that shares the socket: one that
put it back, because it has ended, would have the others' loops block in accept(2). So
it stays, and only Python's time-outs are put back.

A datagram socket that legacy handlers send on, in threads and children, has to block
for them: only reading from it must not wait.
"""

from __future__ import annotations

import os
import socket
import struct


def set_while_read(sock: socket.socket, timeout: float | None) -> float | None:
    """Give `sock` this time-out, which is 0 or None; what to `put_back` afterwards."""
    before = sock.gettimeout()
    if before is None:
        os.set_blocking(sock.fileno(), timeout is None)
    elif before != timeout:
        sock.settimeout(timeout)
    return before


def put_back(sock: socket.socket, timeout: float | None) -> None:
    """Give `sock` the time-out that it had, if it had one, and is not closed by now."""
    if timeout is not None and sock.fileno() >= 0:
        sock.settimeout(timeout)


def never_wait_to_read(sock: socket.socket) -> None:
    """Have reads from a socket that blocks end with BlockingIOError, though sends wait.

    By SO_RCVTIMEO (socket(7)), of which the kernel's shortest is one tick of its clock,
    1 to 10 ms. As O_NONBLOCK it belongs to every process that shares the socket.
    """
    timeval = struct.pack("@ll", 0, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)

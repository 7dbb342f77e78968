"""Which blocking connections have nothing under way: what the kernel knows of their silence.

A thread that waits in `recv` cannot be asked what for, and what it has read is in buffers of
its own. But TCP keeps when it has last sent and received (tcp(7), TCP_INFO).
"""

from __future__ import annotations

import select
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING

from .last_waits import FIRST_MESSAGE, UNANSWERED
from .readiness import is_ready

if TYPE_CHECKING:
    from _typeshed import HasFileno

# tcpi_last_data_sent and tcpi_last_data_recv, in milliseconds, and tcpi_bytes_received
# (linux/tcp.h).
_TCP_INFO = struct.Struct("=44xI4xI72xQ")


def asks_for_nothing(sock: socket.socket, begun_at: float) -> bool:
    """Whether the client of a connection, which was accepted at `begun_at`, waits for nothing.

    False also where that cannot be known: on Unix sockets, and on systems other than Linux.
    """
    seen = _seen(sock)
    if seen is None:
        return False
    since_sent, since_received, count = seen
    if not count:
        return monotonic() - begun_at >= FIRST_MESSAGE
    # The times are as exact as the kernel's clock, whose ticks may be 10 ms: of what was
    # received and sent within one of them nobody can tell which came last.
    return since_sent < since_received or since_received >= UNANSWERED


def has_said_nothing(sock: socket.socket) -> bool:
    """Whether the client has not sent a byte yet; False where that cannot be known."""
    seen = _seen(sock)
    return seen is not None and not seen[2]


def has_everything(sock: HasFileno) -> bool:
    """Whether the peer's kernel has acknowledged all that was sent, an end too; False: who knows.

    That is SIOCOUTQ of tcp(7), and of unix(7), where it is what the peer has not read.
    """
    try:
        import fcntl
        import termios

        return not any(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    except (ImportError, OSError, ValueError):
        # Windows has no such modules; ValueError is for a descriptor that is gone.
        return False


def _seen(sock: socket.socket) -> tuple[float, float, int] | None:
    """Seconds since something was sent, and received, and the bytes received; None: who knows."""
    if not hasattr(socket, "TCP_INFO") or sock.fileno() < 0:
        return None
    try:
        if is_ready(sock.fileno(), select.POLLIN):
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        # Not TCP; or its thread has closed it meanwhile.
        return None
    if len(info) < _TCP_INFO.size:
        return None
    sent, received, count = _TCP_INFO.unpack(info)
    return sent / 1000, received / 1000, count

"""Errors of an answer to a datagram: which of them tell of the client."""

from __future__ import annotations

import errno
import socket
from typing import Any

from .unix import AF_UNIX

# Errors of sendto() that tell of the client, and not of what the handler sends.
_CLIENT_GONE = frozenset(
    {errno.ECONNREFUSED, errno.ENOENT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM}
)

# And those of a Unix client, whose address is a path that it chooses: what connect(2),
# unix(7) and path_resolution(7) have for a file that is no socket, for a socket of another
# type, of another peer or that is shut down, and for a path that leads nowhere.
_UNIX_CLIENT_GONE = _CLIENT_GONE | {
    errno.EACCES,
    errno.ECONNRESET,
    errno.EIO,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.ENOTSOCK,
    errno.EPIPE,
    errno.EPROTOTYPE,
    errno.ESTALE,
}


def tells_of_client(error: OSError, address: Any, family: int) -> bool:
    """Whether sendto() to this client's address failed because of the client."""
    if family == AF_UNIX:
        return error.errno in _UNIX_CLIENT_GONE
    return error.errno in _CLIENT_GONE or _has_no_port(address)


def cannot_be_answered(error: BaseException, address: Any, family: int) -> bool:
    """Whether an error that bears no mark tells of the client, as far as can be asked.

    The handler may have met it elsewhere, so the client is looked at, too.
    """
    if not isinstance(error, OSError) or not tells_of_client(error, address, family):
        return False
    if not address or _has_no_port(address):
        return True
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return True
    return False


def _has_no_port(address: Any) -> bool:
    """Whether it is that of a forged datagram: nobody can be answered at port 0 (RFC 768)."""
    match address:
        case (_, 0, *_):
            return True
        case _:
            return False

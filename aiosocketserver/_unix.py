"""What only Unix sockets have: who the peer is, and descriptors that are passed."""

from __future__ import annotations

import array
import errno
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

# struct ucred of unix(7): three ints.
_UCRED = struct.Struct("3i")

# Or a child that another thread starts at this moment would inherit what arrives.
CLOSE_ON_EXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class PeerCredentials(NamedTuple):
    """Who had connected, as the kernel knows it (SO_PEERCRED, see unix(7))."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """The process at the other end, as it was when it connected.

    Raises OSError (EOPNOTSUPP) for a socket that is not a Unix socket, and on systems
    that do not tell.
    """
    option: int | None = getattr(socket, "SO_PEERCRED", None)
    if option is None or sock.family != getattr(socket, "AF_UNIX", None):
        raise OSError(errno.EOPNOTSUPP, "only a Unix socket on Linux has peer credentials")
    return PeerCredentials(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)))


def rights(descriptors: Iterable[int]) -> tuple[int, int, bytes]:
    """The ancillary data that passes descriptors."""
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes()


def size_of_rights(count: int) -> int:
    """Bytes of a buffer for ancillary data with that many descriptors."""
    return socket.CMSG_SPACE(count * array.array("i").itemsize)


def descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that were passed, now this process's own to close."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()

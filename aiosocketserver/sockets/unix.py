"""What only Unix sockets have: who the peer is, and descriptors that are passed."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

# None where the system has no Unix sockets: no family is equal to it.
AF_UNIX: int | None = getattr(socket, "AF_UNIX", None)

# struct ucred of unix(7): three ints.
_UCRED = struct.Struct("3i")

# sock_diag(7): a netlink header, and the request and answer about one Unix socket, of
# which only the number of the file at its path is asked for.
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ANSWER_SIZE = 16
_ATTRIBUTE = struct.Struct("=HH")
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NETLINK_SOCK_DIAG = 4
_UDIAG_SHOW_VFS = 2
_UNIX_DIAG_VFS = 1

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
    if option is None or sock.family != AF_UNIX:
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


def inode_at_path(sock: socket.socket) -> int | None:
    """The number, its last 32 bits, of the file that bind(2) has made for a Unix socket.

    See sock_diag(7). None where the kernel does not tell.
    """
    family: int | None = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    number = os.fstat(sock.fileno()).st_ino
    # All states, one inode, no cookie.
    request = _REQUEST.pack(
        sock.family, 0, 0, 0xFFFFFFFF, number & 0xFFFFFFFF, _UDIAG_SHOW_VFS, 0xFFFFFFFF, 0xFFFFFFFF
    )
    size = _HEADER.size + len(request)
    header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(family, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.send(header + request)
            # It has answered by now.
            answer = kernel.recv(4096, socket.MSG_DONTWAIT)
    except OSError:
        return None
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    position = _HEADER.size + _ANSWER_SIZE
    while position + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, position)
        if kind == _UNIX_DIAG_VFS:
            return int(struct.unpack_from("=I", answer, position + _ATTRIBUTE.size)[0])
        # Each begins at a multiple of four.
        position += max(length + 3 & ~3, _ATTRIBUTE.size)
    return None

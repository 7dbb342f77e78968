"""The socket that a server is given as `sock`, in place of one that it opens itself."""

from __future__ import annotations

import os
import socket
from typing import cast

from ..optional_ssl import has_ssl, ssl

_INTERNET = (socket.AF_INET, socket.AF_INET6)


def check_given_socket(sock: socket.socket, *, family: int, kind: int, address: object) -> None:
    """Raise TypeError or ValueError unless a server can have `sock` as its own.

    - family, kind: what the class of the server says; of IPv4 and IPv6 either will do
    - address: what the server was given beside the socket; None, or where the socket is
      bound to

    Leaves the socket as it is.
    """
    if not isinstance(cast("object", sock), socket.socket):
        raise TypeError(f"sock must be a socket.socket that is bound, and is {sock!r}")
    if has_ssl() and isinstance(sock, ssl.SSLSocket):
        raise TypeError(
            f"sock must be a plain socket, and is {sock!r}: for an encrypted server give the "
            "context as ssl_context"
        )
    if sock.fileno() < 0:
        raise ValueError(f"sock must be open, and is closed: {sock!r}")
    if sock.type != kind:
        wanted = socket.SocketKind(kind).name
        raise ValueError(f"sock must be of the type {wanted} for this server, and is {sock!r}")
    if sock.family != family and not (sock.family in _INTERNET and family in _INTERNET):
        names = "AF_INET or AF_INET6" if family in _INTERNET else socket.AddressFamily(family).name
        raise ValueError(f"sock must be of the family {names} for this server, and is {sock!r}")
    peer = _peer_of(sock)
    if peer is not None:
        raise ValueError(
            f"sock must be one that clients come to, and is connected to {peer!r}: {sock!r}"
        )
    name = sock.getsockname()
    # A Unix socket without a name; and what is bound has another port than 0.
    if not name or (sock.family in _INTERNET and name[1] == 0):
        raise ValueError(f"sock must be bound, and has no address yet: {sock!r}")
    if address is not None and not _is_same(address, name):
        raise ValueError(
            f"the address {address!r} was given beside sock, which is bound to {name!r}: give "
            "None, or no sock"
        )


def _peer_of(sock: socket.socket) -> object:
    """Whom a socket is connected to, if it is: the nameless peer of a Unix socket is ''."""
    try:
        return sock.getpeername()
    except OSError:
        # ENOTCONN, as it should be.
        return None


def _is_same(address: object, name: object) -> bool:
    if isinstance(address, tuple) and isinstance(name, tuple):
        given = cast("tuple[object, ...]", address)
        # An IPv6 address may come without its last two numbers.
        return len(given) >= 2 and given == cast("tuple[object, ...]", name)[: len(given)]
    if isinstance(address, str | bytes | os.PathLike) and isinstance(name, str | bytes):
        return os.fsencode(cast("str | bytes", address)) == os.fsencode(name)
    return False

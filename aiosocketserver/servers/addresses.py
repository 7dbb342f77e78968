"""Addresses: what a server can be bound to, and errors that name what was wrong."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import Any, cast

from ..sockets.unix import AF_UNIX
from .socket_paths import SocketPath, check_nobody_can_swap, claim, made_for_owner

# sun_path of struct sockaddr_un, less the final NUL (unix(7)).
UNIX_PATH_MAX = 107

# Seconds between two questions whether a silent TCP peer is there, and how many without
# an answer end the connection.
KEEP_ALIVE_INTERVAL = 15
KEEP_ALIVE_PROBES = 4


def family_of(address: object, default: int) -> int:
    """The address family for `address` on a server whose class says `default`.

    An IPv6 literal on a class for IPv4 makes it AF_INET6; everything else keeps the
    default: a name, and None and "" for the wildcard address. Raises TypeError or
    ValueError for an address of the wrong form.
    """
    if default == AF_UNIX:
        _check_unix(address)
        return default
    if default not in (socket.AF_INET, socket.AF_INET6):
        return default
    if not isinstance(address, tuple):
        raise TypeError(f"the address must be a (host, port) tuple, and is {address!r}")
    parts = cast("tuple[object, ...]", address)
    if not 2 <= len(parts) <= 4:
        raise TypeError(f"the address must be a (host, port) tuple, and is {address!r}")
    host, port = parts[:2]
    if not isinstance(host, str | bytes | bytearray | None):
        raise TypeError(
            "the host of an address must be a string, or None for all addresses of this "
            f"machine, and is {host!r}: {address!r}"
        )
    if not isinstance(port, int):
        raise TypeError(f"the port of an address must be a whole number, and is {port!r}")
    if not 0 <= port <= 65535:
        raise ValueError(f"the port of an address must be 0 to 65535, and is {port}")
    return socket.AF_INET6 if default == socket.AF_INET and host and _is_ipv6(host) else default


def without_none(address: object) -> Any:
    """The address as bind(2) has it: "" is the wildcard address, as None is for `getaddrinfo`."""
    if not isinstance(address, tuple):
        return address
    parts = cast("tuple[object, ...]", address)
    return parts if parts[0] is not None else ("", *parts[1:])


def _is_ipv6(host: str | bytes | bytearray) -> bool:
    try:
        return ipaddress.ip_address(host if isinstance(host, str) else host.decode()).version == 6
    except ValueError:
        return False


def _check_unix(address: object) -> None:
    if not isinstance(address, str | bytes | os.PathLike) or not address:
        raise TypeError(
            f"the address of a Unix socket must be a path or '\\0name', and is {address!r}"
        )
    path = os.fsencode(cast("str | bytes", address))
    # An abstract name has no final NUL, and may be one byte longer (unix(7)).
    longest = UNIX_PATH_MAX + 1 if path.startswith(b"\0") else UNIX_PATH_MAX
    if len(path) > longest:
        raise OSError(
            errno.ENAMETOOLONG,
            f"the path of a Unix socket may have {longest} bytes, and has {len(path)}",
            os.fsdecode(path),
        )
    if b"\0" in path[1:] and not path.startswith(b"\0"):
        raise ValueError(f"the path of a Unix socket has no NUL within, and this one has: {path!r}")


def bind(
    sock: socket.socket,
    address: object,
    *,
    unix_mode: int | None = None,
    unix_owner: int | str | None = None,
    unix_group: int | str | None = None,
) -> SocketPath | None:
    """Bind `sock`, with errors that name the address; the path that a Unix socket has now.

    A Unix path where a socket lies that nobody has open is replaced; one of a live
    server is OSError (EADDRINUSE), and any other file is left alone: FileExistsError.
    With a mode nobody but this process's user can reach it before it has its owner and
    that mode. Only the file that bind(2) has made gets them: FileExistsError tells that
    somebody has put another one in its place. Raises ValueError for mode and owner of an
    address that is not a path, and LookupError for a name that the system does not know.
    """
    path: str | bytes | None = None
    if sock.family == AF_UNIX:
        address = os.fspath(cast("str | bytes", address))
        if os.fsencode(address)[:1] != b"\0":
            path = address
    uid, gid = _uid_of(unix_owner), _gid_of(unix_group)
    gives_away = not (unix_mode is unix_owner is unix_group is None)
    if path is None and gives_away:
        raise ValueError(
            "unix_mode, unix_owner and unix_group are for a Unix socket with a path, and the "
            f"address is {address!r}"
        )
    if path is not None:
        if gives_away:
            check_nobody_can_swap(path)
        claim(path)
    try:
        with made_for_owner(sock, unix_mode):
            sock.bind(cast("Any", address))
    except socket.gaierror as error:
        version, other = (
            ("IPv6", "AF_INET") if sock.family == socket.AF_INET6 else ("IPv4", "AF_INET6")
        )
        raise socket.gaierror(
            error.errno,
            f"{error.strerror}: {address!r} (looked for an {version} address, as address_family "
            f"says; the other family is socket.{other})",
        ) from error
    except (TypeError, UnicodeError) as error:
        # A NUL in the name of a host, or what IDNA does not allow.
        raise ValueError(f"not an address to bind to: {address!r}: {error}") from error
    except FileNotFoundError as error:
        folder = os.path.dirname(os.fsdecode(cast("str | bytes", address))) or os.curdir
        raise FileNotFoundError(
            errno.ENOENT, f"there is no folder {folder!r} for the socket", address
        ) from error
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {address!r}") from error
    if path is None:
        return None
    bound = SocketPath(sock, path)
    if gives_away:
        bound.give_away(uid, gid, unix_mode)
    return bound


def _uid_of(owner: int | str | None) -> int:
    if isinstance(owner, str):
        import pwd

        try:
            return pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise LookupError(f"unix_owner: there is no user {owner!r}") from None
    return -1 if owner is None else owner


def _gid_of(group: int | str | None) -> int:
    if isinstance(group, str):
        import grp

        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            raise LookupError(f"unix_group: there is no group {group!r}") from None
    return -1 if group is None else group


def keep_alive(sock: socket.socket, idle: int | None) -> None:
    """Have the kernel look after TCP peers that were silent for `idle` seconds; None: do nothing.

    Of a listening socket: the connections that it accepts inherit it.
    """
    if idle is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS has another name for the first one.
    for name, value in (
        ("TCP_KEEPIDLE", idle),
        ("TCP_KEEPALIVE", idle),
        ("TCP_KEEPINTVL", KEEP_ALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEP_ALIVE_PROBES),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

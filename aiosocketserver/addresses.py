"""Addresses: what a server can be bound to, and errors that name what was wrong."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from typing import Any, cast

# None where the system has no Unix sockets: no family is equal to it.
AF_UNIX: int | None = getattr(socket, "AF_UNIX", None)

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
    that mode. Raises ValueError for mode and owner of an address that is not a path,
    and LookupError for a name that the system does not know.
    """
    path: str | bytes | None = None
    if sock.family == AF_UNIX:
        address = os.fspath(cast("str | bytes", address))
        if os.fsencode(address)[:1] != b"\0":
            path = address
    if path is None and not (unix_mode is unix_owner is unix_group is None):
        raise ValueError(
            "unix_mode, unix_owner and unix_group are for a Unix socket with a path, and the "
            f"address is {address!r}"
        )
    if path is not None:
        _claim_path(path, sock.type)
    uid, gid = _uid_of(unix_owner), _gid_of(unix_group)
    if unix_mode is not None:
        # bind(2) takes over the mode of the socket itself. The umask would do too, but
        # belongs to the whole process, other threads included.
        os.fchmod(sock.fileno(), unix_mode & 0o700)
    try:
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
    _give_away(path, uid, gid, unix_mode)
    return SocketPath(path)


def _give_away(path: str | bytes, uid: int, gid: int, mode: int | None) -> None:
    try:
        if (uid, gid) != (-1, -1):
            os.chown(path, uid, gid, follow_symlinks=False)
        if mode is not None:
            os.chmod(path, mode)
    except OSError:
        # Nobody shall find it with another owner or mode than was asked for.
        os.unlink(path)
        raise


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


def _claim_path(path: str | bytes, kind: int) -> None:
    """Make `path` free for a new socket if only a stale socket is there."""
    try:
        found = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(
            errno.EEXIST, "there is a file that is not a socket, and it is left alone", path
        )
    if _is_alive(path, kind):
        raise OSError(errno.EADDRINUSE, "another server is listening on this socket", path)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), found):
            os.unlink(path)


def _is_alive(path: str | bytes, kind: int) -> bool:
    """Whether a process has the socket at `path` open, where a socket of `kind` belongs."""
    # With the other type connect(2) tells whether there is a socket (EPROTOTYPE), also one
    # that does not listen yet, and connects to none: its server is not disturbed.
    other = socket.SOCK_DGRAM if kind == socket.SOCK_STREAM else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX, other) as probe:
        # A full backlog would make a blocking connect() wait.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            # EAGAIN: it is of the other type, and its backlog is full.
            return True
        return True


class SocketPath:
    """The file of a Unix socket that was just bound: where it is, and which one it is.

    - path: as it was given to bind(2). It is made absolute here, because a relative one
      names another file after `os.chdir`; a folder that is renamed is not followed
    """

    def __init__(self, path: str | bytes) -> None:
        self._path = _absolute(path)
        self._status = os.lstat(path)
        self._bound_by = os.getpid()

    def close(self, sock: socket.socket) -> None:
        """Close the socket, and remove the file if it is still this socket's.

        In a process that was forked after bind(2), a prefork worker or a daemon, the file
        is removed when nobody else has the socket open any more. It stays, as a stale one
        that the next server replaces, when it cannot be removed (after privileges were
        dropped, for example), or when that cannot be asked because the path is too long.
        """
        if os.getpid() == self._bound_by:
            self._remove()
            sock.close()
            return
        sock.close()
        if not _is_alive(self._path, sock.type):
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            found = os.lstat(self._path)
            # The time as well: after close(2), the next server's file may have the number
            # of this one's inode. Neither chmod nor clients change it.
            same_time = found.st_mtime_ns == self._status.st_mtime_ns
            if same_time and os.path.samestat(found, self._status):
                os.unlink(self._path)


def _absolute(path: str | bytes) -> str | bytes:
    # Not abspath(): with a link among the folders, ".." is not what the text says.
    path = os.fsencode(path)
    try:
        return os.path.join(os.getcwdb(), path)
    except FileNotFoundError:
        # The working directory is outside of a chroot(2), so no absolute path leads there.
        return path


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

"""Where a service listens: `tcp://host:port` and its kin, read and opened."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ..servers import addresses
from ..servers.listener import is_listening
from ..servers.socket_paths import SocketPath
from ..servers.stream import TCPServer
from ..sockets.unix import AF_UNIX
from .errors import StartError
from .standard_streams import put_aside

_FORMS = (
    "tcp://host:port, tls://host:port, udp://host:port, unix://path, unix-dgram://path, fd://N "
    "or systemd://name; tls+unix://, tls+fd:// and tls+systemd:// are encrypted"
)

# Tries to find a port that is free for all addresses of a bind with port 0.
_PORT_TRIES = 100

# sd_listen_fds(3).
_FIRST_DESCRIPTOR = 3


class BindError(StartError):
    """A bind that is malformed, taken or forbidden."""


@dataclass(frozen=True)
class Bind:
    """One `--bind`, as it was written and what it says."""

    text: str
    kind: str
    """`tcp`, `udp`, `unix`, `unix-dgram`, `fd` or `systemd`."""
    encrypted: bool = False
    host: str = ""
    port: int = 0
    path: str = ""
    """Of a Unix socket, or the name of a systemd one."""
    descriptor: int = -1

    @classmethod
    def parse(cls, text: str) -> Bind:
        """Read a bind. Raises BindError that says what is wrong and what would be right."""
        match = re.match(r"(?:(tls)(?:\+|(?=:)))?([a-z-]*)://(.*)", text, re.DOTALL)
        if match is None:
            raise _malformed(text, "it has no scheme")
        tls, scheme, rest = match.groups()
        kind = scheme or ("tcp" if tls else "")
        bind = cls(text, kind, encrypted=bool(tls))
        if kind in ("tcp", "udp"):
            bind = _with_address(bind, rest)
        elif kind in ("unix", "unix-dgram"):
            if not rest:
                raise _malformed(text, "it has no path")
            # As `ss` and `lsof` write abstract names.
            path = "\0" + rest[1:] if rest.startswith("@") else rest
            bind = replace(bind, path=path)
        elif kind == "fd":
            if not rest.isascii() or not rest.isdigit():
                raise _malformed(text, f"{rest!r} is no file descriptor")
            bind = replace(bind, descriptor=int(rest))
        elif kind == "systemd":
            bind = replace(bind, path=rest)
        else:
            raise _malformed(text, f"the scheme {scheme!r} is unknown")
        if bind.encrypted and kind in ("udp", "unix-dgram"):
            raise _malformed(text, "datagrams cannot be encrypted with TLS")
        return bind


def _with_address(bind: Bind, rest: str) -> Bind:
    try:
        parts = urlsplit(f"//{rest}")
        port = parts.port
    except ValueError as error:
        raise _malformed(bind.text, str(error)) from None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise _malformed(bind.text, "there is something behind or before host and port")
    if port is None:
        raise _malformed(bind.text, "it has no port")
    host = parts.hostname or ""
    return replace(bind, host="" if host == "*" else host, port=port)


def _malformed(text: str, problem: str) -> BindError:
    return BindError(f"cannot bind to {text!r}: {problem}; a bind is {_FORMS}")


class OpenSocket:
    """A socket that is bound, and listens if it can.

    - path: of a Unix socket that was bound here; the path of one that somebody else has
      opened is not ours to remove
    """

    def __init__(self, sock: socket.socket, bind: Bind, path: SocketPath | None = None) -> None:
        self.sock = sock
        self.bind = bind
        self.address: Any = sock.getsockname()
        self._path = path

    @property
    def is_stream(self) -> bool:
        """Whether it accepts connections."""
        return self.sock.type == socket.SOCK_STREAM

    def __str__(self) -> str:
        """As a bind that would lead there."""
        address = self.address
        if self.sock.family == AF_UNIX:
            kind = "unix" if self.is_stream else "unix-dgram"
            name = os.fsdecode(address)
            place = "@" + name[1:] if name.startswith("\0") else name
        else:
            kind = "tcp" if self.is_stream else "udp"
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            place = f"{host}:{address[1]}"
        if self.bind.encrypted:
            kind = "tls" if kind == "tcp" else f"tls+{kind}"
        return f"{kind}://{place}"

    def close(self) -> None:
        """Close it, and remove its path if that is still this socket's."""
        path, self._path = self._path, None
        if path is None:
            self.sock.close()
        else:
            path.close(self.sock)


@dataclass(frozen=True)
class SocketOptions:
    """What is set before a socket is bound, or when it begins to listen."""

    backlog: int = TCPServer.request_queue_size
    # None: as the server classes have it, for connections and not for datagrams.
    reuse_address: bool | None = None
    reuse_port: bool = False
    unix_mode: int | None = None
    unix_owner: int | str | None = None
    unix_group: int | str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SocketOptions:
        """What of the options of servers concerns their sockets."""
        return cls(
            backlog=options.get("request_queue_size", cls.backlog),
            reuse_address=options.get("allow_reuse_address"),
            reuse_port=options.get("allow_reuse_port", cls.reuse_port),
            unix_mode=options.get("unix_mode"),
            unix_owner=options.get("unix_owner"),
            unix_group=options.get("unix_group"),
        )


def open_sockets(binds: Sequence[Bind], options: SocketOptions) -> list[OpenSocket]:
    """Bind and listen, all of them or none. Raises BindError."""
    with contextlib.ExitStack() as stack:
        opened: list[OpenSocket] = []
        for bind in binds:
            try:
                for each in _open(bind, options):
                    stack.callback(each.close)
                    opened.append(each)
            except OSError as error:
                raise BindError(f"cannot bind to {bind.text}: {_reason(error)}") from error
        stack.pop_all()
        return opened


def open_for_workers(
    binds: Sequence[Bind], options: SocketOptions, workers: int
) -> list[list[OpenSocket]]:
    """The sockets of each worker: the same ones, or some of its own with SO_REUSEPORT.

    Workers that share a listening socket take connections as they have time, and none
    is refused while one is replaced. Datagrams are spread by the kernel, by sender,
    over sockets that each worker has for itself. Raises BindError.
    """
    with contextlib.ExitStack() as stack:
        alone = replace(options, reuse_port=options.reuse_port or workers > 1)
        first: list[OpenSocket] = []
        for bind in binds:
            first += open_sockets([bind], alone if bind.kind == "udp" else options)
            for each in first:
                stack.callback(each.close)
        opened = [first]
        for _ in range(1, workers):
            mine: list[OpenSocket] = []
            for each in first:
                if each.bind.kind == "udp" or (each.bind.kind == "tcp" and options.reuse_port):
                    mine.append(_another(each, alone))
                    stack.callback(mine[-1].close)
                else:
                    mine.append(each)
            opened.append(mine)
        stack.pop_all()
        return opened


def _another(opened: OpenSocket, options: SocketOptions) -> OpenSocket:
    """One more socket at the same address."""
    sock = opened.sock
    try:
        another = _open_address(sock.family, sock.type, opened.address, options)
    except OSError as error:
        raise BindError(f"cannot bind to {opened} once more: {_reason(error)}") from error
    assert another is not None
    return OpenSocket(another, opened.bind)


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the host is not known ({error.strerror})"
    if error.errno == errno.EADDRINUSE:
        return "somebody else listens there already (EADDRINUSE)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address (EADDRNOTAVAIL)"
    if error.errno == errno.EACCES:
        return "not allowed (EACCES): ports below 1024 and other people's directories need rights"
    return str(error)


def _open(bind: Bind, options: SocketOptions) -> Iterator[OpenSocket]:
    if bind.kind in ("tcp", "udp"):
        yield from _open_internet(bind, options)
    elif bind.kind in ("unix", "unix-dgram"):
        yield _open_unix(bind, options)
    elif bind.kind == "fd":
        yield _adopt(bind, bind.descriptor)
    else:
        for descriptor in _systemd_descriptors(bind):
            yield _adopt(bind, descriptor)


def _open_internet(bind: Bind, options: SocketOptions) -> list[OpenSocket]:
    kind = socket.SOCK_STREAM if bind.kind == "tcp" else socket.SOCK_DGRAM
    found = socket.getaddrinfo(
        bind.host or None, bind.port, type=kind, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    # A name may be in the hosts file more than once.
    wanted = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    for last in [False] * (_PORT_TRIES - 1) + [True]:
        with contextlib.ExitStack() as stack:
            opened: list[OpenSocket] = []
            port = bind.port
            try:
                for family, address in wanted:
                    sock = _open_address(family, kind, (address[0], port, *address[2:]), options)
                    if sock is None:
                        continue
                    opened.append(OpenSocket(sock, bind))
                    stack.callback(sock.close)
                    port = sock.getsockname()[1]
                if not opened:
                    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            except OSError as error:
                # With port 0 the first address has chosen one that another one has not free.
                if bind.port or not opened or last or error.errno != errno.EADDRINUSE:
                    raise
                continue
            stack.pop_all()
            return opened
    raise AssertionError("the last try returns or raises")


def _open_address(
    family: int, kind: int, address: tuple[Any, ...], options: SocketOptions
) -> socket.socket | None:
    try:
        sock = socket.socket(family, kind)
    except OSError as error:
        # A kernel without IPv6.
        if error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    try:
        default = kind == socket.SOCK_STREAM
        if default if options.reuse_address is None else options.reuse_address:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # IPv4 has a socket of its own, so that addresses look alike on every system.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen(options.backlog)
    except OSError as error:
        sock.close()
        # IPv6 is compiled in and switched off.
        if family == socket.AF_INET6 and error.errno == errno.EADDRNOTAVAIL and address[0] == "::":
            return None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(bind: Bind, options: SocketOptions) -> OpenSocket:
    kind = socket.SOCK_STREAM if bind.kind == "unix" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_UNIX, kind)
    path: SocketPath | None = None
    try:
        addresses.family_of(bind.path, socket.AF_UNIX)
        path = addresses.bind(
            sock,
            bind.path,
            unix_mode=options.unix_mode,
            unix_owner=options.unix_owner,
            unix_group=options.unix_group,
        )
        if kind == socket.SOCK_STREAM:
            sock.listen(options.backlog)
        return OpenSocket(sock, bind, path)
    except BaseException:
        if path is not None:
            path.remove()
        sock.close()
        raise


def _adopt(bind: Bind, descriptor: int) -> OpenSocket:
    """Take over a socket that somebody else has opened."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        raise BindError(
            f"cannot bind to {bind.text}: descriptor {descriptor} is not open"
        ) from None
    if not is_socket:
        raise BindError(f"cannot bind to {bind.text}: descriptor {descriptor} is no socket")
    sock = socket.socket(fileno=put_aside(descriptor))
    if sock.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        problem = "is neither a stream nor a datagram socket"
    elif sock.type == socket.SOCK_STREAM and not is_listening(sock):
        problem = "does not listen"
    elif sock.type == socket.SOCK_DGRAM and bind.encrypted:
        problem = "is for datagrams, which cannot be encrypted with TLS"
    else:
        # Not for the programs that handlers start.
        sock.set_inheritable(False)
        return OpenSocket(sock, bind)
    sock.detach()
    raise BindError(f"cannot bind to {bind.text}: descriptor {descriptor} {problem}")


# Sockets from systemd


def systemd_sockets() -> dict[int, str]:
    """The descriptors that systemd has passed to this process, and their names.

    See sd_listen_fds(3). Empty when there are none, or when they are somebody else's.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(text) if (text := os.environ.get("LISTEN_FDS", "0")).isdecimal() else 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return {
        _FIRST_DESCRIPTOR + number: names[number] if number < len(names) else ""
        for number in range(count)
    }


def forget_systemd_sockets() -> None:
    """Keep what was passed, and the variables, from the programs that handlers start.

    Also what no bind has taken.
    """
    for descriptor in systemd_sockets():
        # Fewer were passed, or a bind has moved it.
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, False)
    for name in ("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)


def _systemd_descriptors(bind: Bind) -> list[int]:
    passed = systemd_sockets()
    if not passed:
        raise BindError(
            f"cannot bind to {bind.text}: systemd has passed no sockets to this process "
            "(LISTEN_FDS and LISTEN_PID are not set for it)"
        )
    wanted = [number for number, name in passed.items() if bind.path in ("", name)]
    if not wanted:
        names = ", ".join(sorted(set(passed.values())))
        raise BindError(f"cannot bind to {bind.text}: systemd has passed only {names}")
    return wanted

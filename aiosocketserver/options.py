"""The options of a server: documented class attributes that the constructor takes too."""

from __future__ import annotations

import difflib
import ipaddress
import math
from collections.abc import Callable, Collection, Iterable
from typing import Literal, TypedDict, cast

from .optional_ssl import has_ssl, ssl


class ServerOptions(TypedDict, total=False):
    """Every option as a keyword of a server's constructor; its class documents it."""

    address_family: int
    allow_reuse_address: bool
    allow_reuse_port: bool
    block_on_close: bool
    blocking_warning: float | None
    daemon_threads: bool
    end_when_draining: bool | None
    handshake_timeout: float | None
    idle_timeout: float | None
    ipv6_prefix_length: int
    linger_timeout: float
    max_block_size: int
    max_children: int
    max_concurrency: int
    max_connections: int | None
    max_connections_per_host: int | None
    max_line_size: int
    max_packet_size: int
    max_queue: int
    max_threads: int | None
    proxy_protocol: Literal["off", "optional", "required"]
    proxy_timeout: float | None
    proxy_trusted: Collection[str]
    read_timeout: float | None
    request_queue_size: int
    request_timeout: float | None
    reuse_threads: bool
    shutdown_timeout: float | None
    ssl_context: ssl.SSLContext | Callable[[], ssl.SSLContext] | None
    tcp_keep_alive: int | None
    timeout: float | None
    tls_reload_interval: float | None
    unix_group: int | str | None
    unix_mode: int | None
    unix_owner: int | str | None
    write_timeout: float | None


def _flag(value: object) -> str | None:
    # Class attributes of socketserver programs are often 0 and 1.
    return None if value in (True, False) else "True or False"


def _size(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return None if right else "a whole number above 0"


def _size_or_zero(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if right else "a whole number, 0 or above"


def _prefix_length(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 128
    return None if right else "a number of bits, 1 to 128"


def _mode(value: object) -> str | None:
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777
    return None if right else "permissions as 0o660, 0 to 0o777"


def _owner(value: object) -> str | None:
    if isinstance(value, str):
        return None if value else "a name or a number"
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return None if right else "a name or a number"


def _seconds(value: object) -> str | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    # Infinity is wrong as well: it would be an OverflowError of a socket, much later.
    return None if right and value != math.inf else "a number of seconds, 0 or above"


def _seconds_above_zero(value: object) -> str | None:
    wanted = _seconds(value)
    return wanted if wanted is None and value != 0 else "a number of seconds above 0"


def _keep_alive(value: object) -> str | None:
    # Linux' largest TCP_KEEPIDLE.
    right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 32767
    return None if right else "a whole number of seconds, 1 to 32767"


def _proxy_protocol(value: object) -> str | None:
    return None if value in ("off", "optional", "required") else '"off", "optional" or "required"'


def _networks(value: object) -> str | None:
    try:
        if not isinstance(value, str):
            for network in cast("Iterable[str]", value):
                ipaddress.ip_network(network)
            return None
    except (TypeError, ValueError):
        pass
    return 'a list of networks, as ["10.1.0.0/16", "fd00::/8", "192.0.2.7"]'


def _context(value: object) -> str | None:
    if not has_ssl():
        return "None: this Python was built without ssl"
    right = isinstance(value, ssl.SSLContext) or callable(value)
    return None if right else "an ssl.SSLContext or a function that makes one"


def _or_none(check: Callable[[object], str | None]) -> Callable[[object], str | None]:
    def checked(value: object) -> str | None:
        wanted = None if value is None else check(value)
        return wanted and f"{wanted}, or None"

    return checked


# For each option what is wrong with a value, as "what would be right", or None.
_CHECKS: dict[str, Callable[[object], str | None]] = {
    "address_family": _size,
    "allow_reuse_address": _flag,
    "allow_reuse_port": _flag,
    "block_on_close": _flag,
    "blocking_warning": _or_none(_seconds_above_zero),
    "daemon_threads": _flag,
    "end_when_draining": _or_none(_flag),
    "handshake_timeout": _or_none(_seconds_above_zero),
    "idle_timeout": _or_none(_seconds_above_zero),
    "ipv6_prefix_length": _prefix_length,
    "linger_timeout": _seconds,
    "max_block_size": _size,
    "max_children": _size,
    "max_concurrency": _size,
    "max_connections": _or_none(_size),
    "max_connections_per_host": _or_none(_size),
    "max_line_size": _size,
    "max_packet_size": _size,
    "max_queue": _size_or_zero,
    "max_threads": _or_none(_size),
    "proxy_protocol": _proxy_protocol,
    "proxy_timeout": _or_none(_seconds_above_zero),
    "proxy_trusted": _networks,
    "read_timeout": _or_none(_seconds_above_zero),
    "request_queue_size": _size_or_zero,
    "request_timeout": _or_none(_seconds_above_zero),
    "reuse_threads": _flag,
    "shutdown_timeout": _or_none(_seconds),
    "ssl_context": _or_none(_context),
    "tcp_keep_alive": _or_none(_keep_alive),
    "timeout": _or_none(_seconds),
    "tls_reload_interval": _or_none(_seconds_above_zero),
    "unix_group": _or_none(_owner),
    "unix_mode": _or_none(_mode),
    "unix_owner": _or_none(_owner),
    "write_timeout": _or_none(_seconds_above_zero),
}


def apply_options(server: object, given: ServerOptions) -> None:
    """Set what was given on `server`, and check every option that it has.

    Raises TypeError for a name that the server's class does not have, and ValueError
    for a value that makes no sense, wherever it was set.
    """
    name_of_class = type(server).__qualname__
    known = known_options(server)
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise TypeError(f"{name_of_class} has no option {name!r}: {hint}")
        setattr(server, name, value)
    check_options(server, known)


def known_options(server: object) -> list[str]:
    """The names of the options that a server has, or all servers of a class."""
    without: frozenset[str] = getattr(server, "without_options", frozenset())
    return [name for name in _CHECKS if hasattr(server, name) and name not in without]


def what_is_right(name: str, value: object) -> str | None:
    """What the option should be when `value` makes no sense for it, else None."""
    return _CHECKS[name](value)


def check_options(server: object, names: Iterable[str]) -> None:
    """Raise ValueError for a value on `server` that makes no sense."""
    for name in names:
        value = getattr(server, name)
        wanted = what_is_right(name, value)
        if wanted is not None:
            raise ValueError(
                f"{type(server).__qualname__}.{name} must be {wanted}, and is {value!r}"
            )

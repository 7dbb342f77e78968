"""What is wrong with the value of an option: pure functions, which say what would be right."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable
from typing import cast

from ..optional_ssl import has_ssl, ssl

# What an option should be instead of a value that makes no sense; None for one that does.
Check = Callable[[object], str | None]


def _is_whole(value: object, least: int, most: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def flag(value: object) -> str | None:
    # Class attributes of socketserver programs are often 0 and 1.
    return None if value in (True, False) else "True or False"


def size(value: object) -> str | None:
    return None if _is_whole(value, 1, math.inf) else "a whole number above 0"


def size_or_zero(value: object) -> str | None:
    return None if _is_whole(value, 0, math.inf) else "a whole number, 0 or above"


def prefix_length(value: object) -> str | None:
    return None if _is_whole(value, 1, 128) else "a number of bits, 1 to 128"


def mode(value: object) -> str | None:
    return None if _is_whole(value, 0, 0o777) else "permissions as 0o660, 0 to 0o777"


def owner(value: object) -> str | None:
    right = value != "" if isinstance(value, str) else _is_whole(value, 0, math.inf)
    return None if right else "a name or a number"


def seconds(value: object) -> str | None:
    right = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    # Infinity is wrong as well: it would be an OverflowError of a socket, much later.
    return None if right and value != math.inf else "a number of seconds, 0 or above"


def above_zero(value: object) -> str | None:
    wanted = seconds(value)
    return wanted if wanted is None and value != 0 else "a number of seconds above 0"


def keep_alive(value: object) -> str | None:
    # Linux' largest TCP_KEEPIDLE.
    return None if _is_whole(value, 1, 32767) else "a whole number of seconds, 1 to 32767"


def proxy_protocol(value: object) -> str | None:
    return None if value in ("off", "optional", "required") else '"off", "optional" or "required"'


def networks(value: object) -> str | None:
    try:
        if not isinstance(value, str):
            for network in cast("Iterable[str]", value):
                ipaddress.ip_network(network)
            return None
    except (TypeError, ValueError):
        pass
    return 'a list of networks, as ["10.1.0.0/16", "fd00::/8", "192.0.2.7"]'


def context(value: object) -> str | None:
    if not has_ssl():
        return "None: this Python was built without ssl"
    right = isinstance(value, ssl.SSLContext) or callable(value)
    return None if right else "an ssl.SSLContext or a function that makes one"

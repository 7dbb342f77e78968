"""Text that came from outside, where a person or a line-based tool reads it.

A Unix client chooses the name of its socket, and a proxy any name at all: with newlines,
escape sequences of terminals, or bytes that are no UTF-8.
"""

from __future__ import annotations

import os
import re
from typing import cast

# Visible ASCII but for quotes and the backslash.
_PLAIN = re.compile(rb"[!#-&(-\[\]-~]*")


def printable(text: str) -> str:
    """The text in one line, without what changes a terminal's state: escapes as in Python's repr.

    Text that is printable already is left as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def spell_address(address: object) -> str:
    """A client's address as one word of ASCII, of which no two addresses have the same.

    `host:port`, `[host]:port` for IPv6, the path of a Unix socket, a path that is
    relative with "./" before it, `@name` for an abstract name, and nothing for a client
    without any. In names whatever is no visible ASCII character, backslash and quotes
    are written as `\\xNN`.
    """
    if isinstance(address, tuple):
        host, port = (*cast("tuple[object, ...]", address), None, None)[:2]
        if isinstance(host, str) and isinstance(port, int):
            # The zone of an IPv6 address is the name of an interface.
            host = _spell_bytes(os.fsencode(host))
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not isinstance(address, str | bytes | None):
        # Whatever somebody's get_request() has made.
        return _spell_bytes(printable(f"{address!r}").encode(errors="backslashreplace"))
    if not address:
        return ""
    name = os.fsencode(address)
    if name.startswith(b"\0"):
        return "@" + _spell_bytes(name[1:])
    if name.startswith((b"/", b"./", b"../")):
        return _spell_bytes(name)
    return "./" + _spell_bytes(name)


def _spell_bytes(name: bytes) -> str:
    if _PLAIN.fullmatch(name):
        return name.decode()
    return "".join(
        chr(byte) if 0x20 < byte < 0x7F and byte not in b"\\\"'" else f"\\x{byte:02x}"
        for byte in name
    )

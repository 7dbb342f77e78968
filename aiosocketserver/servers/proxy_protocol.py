"""The PROXY protocol, versions 1 and 2: what a proxy says of the client behind it.

Bytes in, values out: nothing here reads a socket. The protocol is HAProxy's
(https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt); nginx, Envoy and the load
balancers of the cloud providers speak it too.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

_V1_SIGNATURE = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

# "107-byte buffer is always enough to store all the line": section 2.1, with its end.
_V1_LONGEST = 107

_V1_ADDRESSES = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (\d+) (\d+)")

# Signature, version and command, family and transport, bytes that follow.
_V2_HEAD = struct.Struct("!12sBBH")

_V2_LOCAL, _V2_PROXY = 0, 1

# Those of the high half of a byte whose low half is the transport; 0 is "unspecified".
_V2_INET, _V2_INET6, _V2_UNIX = 1, 2, 3
_V2_ADDRESSES = {
    _V2_INET: struct.Struct("!4s4sHH"),
    _V2_INET6: struct.Struct("!16s16sHH"),
    _V2_UNIX: struct.Struct("!108s108s"),
}
_V2_TRANSPORTS = (0, 1, 2)

_TLV_HEAD = struct.Struct("!BH")


class ProxyHeaderError(ValueError):
    """The bytes at the beginning of a connection are not a PROXY header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says of a connection that it passes on."""

    version: int
    """1 or 2."""

    source: Any = None
    """The client's address, as `accept` on a socket of its family tells and spells it.

    `(host, port)`, for IPv6 `(host, port, 0, 0)`, and a name for Unix sockets, whatever
    family the server's own socket has. `host` is in the form of inet_ntop(3):
    "2001:db8::1", and "::ffff:192.0.2.1" when the proxy says that an IPv4 address is
    mapped into IPv6. None for a connection of the proxy's own, as a health check, and
    where the proxy does not know.
    """

    destination: Any = None
    """Where the client has connected to, in the same form."""

    tlvs: tuple[tuple[int, bytes], ...] = ()
    """What else the proxy says: types (section 2.2) and values, in the order sent."""

    def tlv(self, kind: int) -> bytes | None:
        """The value of the first TLV of this type, or None: 0x02 is the name asked for (SNI)."""
        return next((value for number, value in self.tlvs if number == kind), None)


# The header of the connection that the running code serves.
current_header: ContextVar[ProxyHeader | None] = ContextVar(
    "aiosocketserver_proxy_header", default=None
)


def proxy_header() -> ProxyHeader | None:
    """The PROXY header of the connection that the running code serves; None without one.

    Works in handlers and hooks, on the loop, in threads and in children.
    """
    return current_header.get()


def is_header(data: bytes) -> bool | None:
    """Whether a connection that begins with `data` begins with a header; None: too early to say."""
    for signature in (_V1_SIGNATURE, _V2_SIGNATURE):
        if data.startswith(signature):
            return True
        if signature.startswith(data):
            return None
    return False


def parse_header(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that `data` begins with, and its length; None when more of it has to come.

    Raises ProxyHeaderError when nothing that may come makes it one.
    """
    if not is_header(data):
        if is_header(data) is None:
            return None
        raise ProxyHeaderError(
            f"expected a PROXY header, which begins with {_V1_SIGNATURE!r} or "
            f"{_V2_SIGNATURE!r}, and got {data[:16]!r}"
        )
    return _parse_v1(data) if data.startswith(_V1_SIGNATURE) else _parse_v2(data)


def _parse_v1(data: bytes) -> tuple[ProxyHeader, int] | None:
    end = data.find(b"\r\n", 0, _V1_LONGEST)
    if end < 0:
        if len(data) >= _V1_LONGEST or b"\n" in data:
            raise ProxyHeaderError(
                f"a PROXY header of version 1 ends with \\r\\n within {_V1_LONGEST} bytes, "
                f"and this one does not: {data[:_V1_LONGEST]!r}"
            )
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(1), end + 2
    match = _V1_ADDRESSES.fullmatch(line)
    if match is None:
        raise ProxyHeaderError(f"not a PROXY header of version 1: {line!r}")
    version = int(match[1])
    try:
        source, destination = (
            _parse_address(host.decode(), int(port), version)
            for host, port in ((match[2], match[4]), (match[3], match[5]))
        )
    except ValueError as error:
        raise ProxyHeaderError(f"not a PROXY header of version 1: {line!r}: {error}") from None
    return ProxyHeader(1, source, destination), end + 2


def _parse_address(text: str, port: int, version: int) -> tuple[Any, ...]:
    address = ipaddress.ip_address(text)
    if address.version != version:
        raise ValueError(f"{address} is no IPv{version} address")
    if port > 0xFFFF:
        raise ValueError(f"{port} is no port")
    return _ip_address(address.packed, port)


def _ip_address(packed: bytes, port: int) -> tuple[Any, ...]:
    # As accept() spells it, on which str() of ipaddress does not agree with inet_ntop(3):
    # not in each version of Python for mapped addresses, and in none for "::192.0.2.1".
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed), port
    return socket.inet_ntop(socket.AF_INET6, packed), port, 0, 0


def _parse_v2(data: bytes) -> tuple[ProxyHeader, int] | None:
    if len(data) < _V2_HEAD.size:
        return None
    _, version_and_command, family_and_transport, length = _V2_HEAD.unpack_from(data)
    version, command = divmod(version_and_command, 16)
    if version != 2 or command not in (_V2_LOCAL, _V2_PROXY):
        raise ProxyHeaderError(
            f"version and command of a PROXY header are 0x20 or 0x21, not {version_and_command:#x}"
        )
    end = _V2_HEAD.size + length
    if len(data) < end:
        return None
    family, transport = divmod(family_and_transport, 16)
    if command == _V2_LOCAL:
        # What follows says nothing of this connection: section 2.2.
        return ProxyHeader(2), end
    if family not in (0, *_V2_ADDRESSES) or transport not in _V2_TRANSPORTS:
        raise ProxyHeaderError(
            f"a PROXY header with an unknown family and transport: {family_and_transport:#x}"
        )
    if family == 0:
        return ProxyHeader(2), end
    layout = _V2_ADDRESSES[family]
    if length < layout.size:
        raise ProxyHeaderError(
            f"the addresses of a PROXY header of family {family} take {layout.size} bytes, "
            f"and there are {length}"
        )
    source: Any
    destination: Any
    fields = layout.unpack_from(data, _V2_HEAD.size)
    if family == _V2_UNIX:
        source, destination = (_unix_address(field) for field in fields)
    else:
        source, destination = (
            _ip_address(host, port)
            for host, port in ((fields[0], fields[2]), (fields[1], fields[3]))
        )
    tlvs = tuple(parse_tlvs(data[_V2_HEAD.size + layout.size : end]))
    return ProxyHeader(2, source, destination, tlvs), end


def _unix_address(field: bytes) -> str | bytes:
    # As socket.accept() has them: an abstract name is bytes, none at all is "".
    name = field.rstrip(b"\0")
    if name.startswith(b"\0"):
        return name
    return os.fsdecode(name.partition(b"\0")[0])


def parse_tlvs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and values in a sequence of TLVs, as in a header or behind the head of one's 0x20.

    Raises ProxyHeaderError when one does not fit.
    """
    position = 0
    while position < len(data):
        if len(data) - position < _TLV_HEAD.size:
            raise ProxyHeaderError(f"a PROXY header ends within a TLV: {data[position:]!r}")
        kind, length = _TLV_HEAD.unpack_from(data, position)
        position += _TLV_HEAD.size
        if len(data) - position < length:
            raise ProxyHeaderError(
                f"the TLV {kind:#x} of a PROXY header says {length} bytes, "
                f"and {len(data) - position} are left"
            )
        yield kind, data[position : position + length]
        position += length

"""To which address a datagram was sent, and how an answer leaves from that address.

A socket that is bound to the wildcard address takes datagrams for every address of the
machine, and the kernel chooses by the route to the client from which of them an answer
leaves. Clients that compare, as those of DNS do (RFC 5452, section 9.1), drop one from
another address than they asked. With IP_PKTINFO and IPV6_RECVPKTINFO (ip(7), ipv6(7),
RFC 3542) the kernel tells the address with each datagram, and takes it with the answer.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

# `socket` has the first one since Python 3.12. None where the system has none of it.
_IP_PKTINFO: int | None = getattr(
    socket, "IP_PKTINFO", {"linux": 8, "darwin": 26}.get(sys.platform)
)
_IPV6_RECVPKTINFO: int | None = getattr(socket, "IPV6_RECVPKTINFO", None)
_IPV6_PKTINFO: int | None = getattr(socket, "IPV6_PKTINFO", None)

# As numbers, which take a third of the time of an enum's members.
_IPPROTO_IP = int(socket.IPPROTO_IP)
_IPPROTO_IPV6 = int(socket.IPPROTO_IPV6)

# struct in_pktinfo: the interface, an address of this machine to answer from, and the
# one in the datagram's header.
_IN_PKTINFO = struct.Struct("=i4s4s")
# struct in6_pktinfo: the address in the header, and the interface.
_IN6_PKTINFO = struct.Struct("=16sI")

_ANY_IPV4 = bytes(4)

# As many addresses as have been asked of late; one tells as little as a tuple takes.
_KEPT = 1024

ControlMessages = Sequence[tuple[int, int, bytes]]


class Destination(NamedTuple):
    """The address to which a datagram was sent."""

    host: str
    """As `getsockname` would spell it. May be a multicast or broadcast address."""

    scope: int
    """The interface's number where the address is meaningful on one link only, else 0."""

    answer_from: ControlMessages
    """What lets an answer leave from there with `sendmsg`; empty where the kernel has to choose."""


def ask_for_destinations(sock: socket.socket) -> bool:
    """Have the kernel tell the destination of each datagram, if there can be several.

    False for a socket that is bound to one address, and where the system does not tell.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    if not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_unspecified:
        return False
    told = _set(sock, socket.IPPROTO_IP, _IP_PKTINFO)
    if sock.family == socket.AF_INET6:
        # Both, as it may take IPv4 too. IPv6's own message would do for that as well,
        # but says nothing of an address to answer from when it was a broadcast.
        told = _set(sock, socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO) or told
    return told


def _set(sock: socket.socket, level: int, option: int | None) -> bool:
    if option is None:
        return False
    try:
        sock.setsockopt(level, option, 1)
    except OSError:
        # Not every system has IPv4's option on an IPv6 socket.
        return False
    return True


def destination_of(
    ancillary: Iterable[tuple[int, int, bytes]], is_ipv6: bool
) -> Destination | None:
    """What the control messages of a datagram tell; None when they do not."""
    found = None
    for level, kind, data in ancillary:
        if level == _IPPROTO_IP and kind == _IP_PKTINFO:
            return _from_ipv4(data, is_ipv6)
        if level == _IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            found = data
    return None if found is None else _from_ipv6(found)


@lru_cache(_KEPT)
def _from_ipv4(data: bytes, is_mapped: bool) -> Destination:
    _, own, sent_to = _IN_PKTINFO.unpack(data)
    if own == _ANY_IPV4:
        # It came before the kernel was asked to tell. If this is a broadcast address,
        # which cannot be seen, the kernel refuses to send from it.
        own = _ANY_IPV4 if ipaddress.IPv4Address(sent_to).is_multicast else sent_to
    answer_from: ControlMessages = ()
    if own != _ANY_IPV4:
        # Without the interface: the way back is for the routes to choose.
        assert _IP_PKTINFO is not None
        info = _IN_PKTINFO.pack(0, own, _ANY_IPV4)
        answer_from = ((_IPPROTO_IP, _IP_PKTINFO, info),)
    host = socket.inet_ntop(socket.AF_INET, sent_to)
    return Destination(f"::ffff:{host}" if is_mapped else host, 0, answer_from)


@lru_cache(_KEPT)
def _from_ipv6(data: bytes) -> Destination:
    sent_to, interface = _IN6_PKTINFO.unpack(data)
    address = ipaddress.IPv6Address(sent_to)
    mapped = address.ipv4_mapped
    # Elsewhere the way back is for the routes to choose.
    scope = interface if address.is_link_local else 0
    answer_from: ControlMessages = ()
    if not address.is_multicast and not (mapped and mapped.is_multicast):
        assert _IPV6_PKTINFO is not None
        info = _IN6_PKTINFO.pack(sent_to, scope)
        answer_from = ((_IPPROTO_IPV6, _IPV6_PKTINFO, info),)
    if address.is_multicast:
        scope = interface
    return Destination(socket.inet_ntop(socket.AF_INET6, sent_to), scope, answer_from)

"""The proxies in front of a server: whom it believes, and the header that they send first."""

from __future__ import annotations

import asyncio
import ipaddress
import select
import socket
from collections.abc import Iterable
from typing import Any, cast

from ..sockets.readiness import is_ready, until_readable
from .proxy_protocol import ProxyHeader, ProxyHeaderError, is_header, parse_header

# Looked at in one call. Most headers have less than 100 bytes.
_PEEK_SIZE = 4096

# Bytes of a broken header that an error shows.
_MOST_TOLD = 16

# Seconds between two looks at what may become a header and must not be consumed.
_PAUSE = 0.02

# The peer sends no more. Where poll() cannot tell, `proxy_timeout` ends the wait.
_ENDED = getattr(select, "POLLRDHUP", 0)


_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class TrustedProxies:
    """Those networks whose headers are believed; everybody who can reach a Unix socket.

    An IPv4 address that is mapped into IPv6 is the IPv4 address, on either side.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [_unmapped(ipaddress.ip_network(network)) for network in networks]

    def trust(self, client_address: Any) -> bool:
        """Whether the peer at this address, as of `accept`, is one of them."""
        if not isinstance(client_address, tuple):
            return True
        host: str = cast("tuple[str, int]", client_address)[0]
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _unmapped(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        return ipaddress.IPv4Network((network.network_address.packed[12:], network.prefixlen - 96))
    return network


async def read_header(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, *, required: bool
) -> ProxyHeader | None:
    """Take the header from a socket, and not a byte more; None when there is none.

    What is consumed is the header's for certain, so that whoever reads next, TLS or a
    handler of whatever kind, finds the rest in the kernel. Raises ProxyHeaderError
    for what is no header, or ends within one; nothing is an error without `required`
    that does not begin like one.
    """
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        return await _read_header(loop, sock, required)
    finally:
        sock.settimeout(timeout)


async def _read_header(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, required: bool
) -> ProxyHeader | None:
    consumed = b""
    while True:
        try:
            peeked = sock.recv(_PEEK_SIZE, socket.MSG_PEEK)
        except BlockingIOError:
            await until_readable(loop, sock.fileno())
            continue
        data = consumed + peeked
        if not (required or is_header(data)):
            if not peeked or is_header(data) is False or is_ready(sock.fileno(), _ENDED):
                return None
            # It may be the client's own. The socket stays readable, so nothing tells of more.
            await asyncio.sleep(_PAUSE)
            continue
        if not peeked:
            raise ProxyHeaderError(
                f"the connection has ended within the PROXY header, after {len(data)} bytes, "
                f"which begin with {data[:_MOST_TOLD]!r}"
            )
        parsed = parse_header(data)
        if parsed is not None:
            header, length = parsed
            sock.recv(length - len(consumed))
            return header
        consumed += sock.recv(len(peeked))

"""How many connections each host has: what `max_connections_per_host` counts."""

from __future__ import annotations

import ipaddress
from collections.abc import Hashable
from typing import Any, cast

_IPV6_BITS = 128


def host_of(client_address: object, ipv6_prefix_length: int) -> Hashable:
    """What is one host; None for an address that is not IP, as of a Unix socket.

    An IPv6 host is a whole network, of which one subscriber has at least 2**64
    addresses (RFC 6177); an IPv4 address mapped into IPv6 is the IPv4 host.
    """
    # (host, port), and for IPv6 two numbers more.
    if not isinstance(client_address, tuple):
        return None
    parts = cast("tuple[object, ...]", client_address)
    if len(parts) < 2 or not isinstance(parts[0], str):
        return None
    host = parts[0]
    if ":" not in host:
        return host
    # A link-local address may come with its interface.
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return int(address) >> (_IPV6_BITS - ipv6_prefix_length)


class HostCounts:
    """The number of connections of each host that has any."""

    def __init__(self, ipv6_prefix_length: int) -> None:
        self._ipv6_prefix_length = ipv6_prefix_length
        self._counts: dict[Hashable, int] = {}

    def of(self, client_address: Any) -> int:
        """How many connections the host of this address has."""
        return self._counts.get(host_of(client_address, self._ipv6_prefix_length), 0)

    def add(self, client_address: Any) -> None:
        """Count one more."""
        host = host_of(client_address, self._ipv6_prefix_length)
        if host is not None:
            self._counts[host] = self._counts.get(host, 0) + 1

    def remove(self, client_address: Any) -> None:
        """Count one less, which was counted before."""
        host = host_of(client_address, self._ipv6_prefix_length)
        if host is None:
            return
        if self._counts[host] == 1:
            del self._counts[host]
        else:
            self._counts[host] -= 1

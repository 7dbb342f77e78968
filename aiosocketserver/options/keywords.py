"""Every option as a keyword, for type checkers. A test compares it with the classes'."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, TypedDict

from ..optional_ssl import ssl


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

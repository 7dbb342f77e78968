"""Which connections a stream server serves: its limits, and what proxies tell of clients."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from ..errors import TimedOut
from ..logs.client_log import ClientLog
from ..logs.limits import LogLimit
from ..requests.entries import InTask, set_outcome
from ..requests.failures import Failures
from ..requests.registry import RequestsInProgress
from ..requests.statistics import Statistics
from ..sockets.plain_socket import mark
from ..sockets.time_limits import time_limit
from ..sockets.unix import AF_UNIX
from .proxies import TrustedProxies, read_header
from .proxy_protocol import ProxyHeaderError, current_header

logger = logging.getLogger("aiosocketserver")


class AdmissionHost(Protocol):
    """What the admission of connections asks of its server."""

    max_connections: int | None
    max_connections_per_host: int | None
    ipv6_prefix_length: int
    proxy_trusted: Collection[str]
    proxy_timeout: float | None
    address_family: int
    statistics: Statistics

    _requests: RequestsInProgress
    _failures: Failures
    _client_log: ClientLog

    @property
    def proxy_protocol(self) -> str: ...

    @property
    def _loop(self) -> asyncio.AbstractEventLoop | None: ...

    def handle_refusal(self, request: Any, client_address: Any, reason: str) -> None: ...

    def close_request(self, request: Any) -> None: ...

    def _start_request(self, request: Any, client_address: Any) -> asyncio.Task[None]: ...

    def _closing(self) -> int:
        """How many connections are closing; each has its descriptor, and its kernel's buffers."""
        ...

    def _resume(self) -> None:
        """Accept again, if there is room."""
        ...


class Admission:
    """Lets connections in, or refuses them, on the loop's thread.

    Raises ValueError for a `proxy_protocol` without `proxy_trusted`.
    """

    def __init__(self, server: AdmissionHost) -> None:
        self._server = server
        # Those that have one `max_connections` together, this one among them.
        self.sharing: Sequence[Admission] = (self,)
        # Connections that wait for their PROXY header.
        self.greeted: set[InTask] = set()
        self._memory_log = LogLimit()
        self._proxies: TrustedProxies | None = None
        if server.proxy_protocol != "off":
            if not (server.proxy_trusted or server.address_family == AF_UNIX):
                raise ValueError(
                    f"{type(server).__qualname__}.proxy_protocol needs proxy_trusted, the networks "
                    'of the proxies, as ["10.1.0.0/16", "fd00::/8"]: anybody else could pretend '
                    "to be any client"
                )
            self._proxies = TrustedProxies(server.proxy_trusted)

    @property
    def asks_proxies(self) -> bool:
        """Whether a proxy may tell whose connection it is."""
        return self._proxies is not None

    def limited(self, requests: int) -> int:
        """How many requests there may be at once, of `requests` that could be served."""
        most = self._server.max_connections
        if most is None:
            return requests
        taken = sum(each._taken() for each in self.sharing if each is not self)
        return min(requests, most - self._server._closing() - taken)

    def _taken(self) -> int:
        return len(self._server._requests) + self._server._closing()

    def room_made(self) -> None:
        """Accept again, here and where there is one limit for both."""
        for each in self.sharing:
            each._server._resume()

    def on_connection(self, request: Any, client_address: Any) -> None:
        """Serve a connection that was accepted, unless its host has enough of them.

        Raises MemoryError when there was none for it, and it is closed.
        """
        try:
            _ = self.take_on(request, client_address)
        except MemoryError:
            self._server.statistics.refused["memory"] += 1
            count = self._memory_log.count()
            if count:
                logger.error(
                    "no memory to serve %r, whose connection is closed; so were %d others since "
                    "this was last logged",
                    client_address,
                    count - 1,
                    extra={"client_address": client_address, "request_id": None},
                )
            raise
        except BaseException as error:  # noqa: BLE001 - logged, or raised at the end
            self._server._failures.end_or_log(
                error, "the connection of %r could not be served", client_address
            )

    def take_on(self, request: Any, client_address: Any) -> asyncio.Task[None] | None:
        """The task that serves a connection; None when it was refused. Closed if that fails."""
        try:
            if not self._admits(request, client_address):
                return None
            return self._server._start_request(request, client_address)
        except BaseException:
            self._server.close_request(request)
            raise

    def _admits(self, request: Any, client_address: Any) -> bool:
        """Whether a connection may be served, as far as its peer tells; closes it if it may not."""
        if self._proxies is None:
            reason = self._reason_to_refuse(client_address)
        elif self._proxies.trust(client_address):
            # Its client is looked at when it is known.
            reason = ""
        elif self._server.proxy_protocol == "required":
            reason = "proxy_trusted"
        else:
            reason = self._reason_to_refuse(client_address)
        if reason:
            self._refuse(request, client_address, reason)
        return not reason

    def _reason_to_refuse(self, client_address: Any) -> str:
        """The option that one more connection of this client would exceed, or nothing."""
        if self._server.max_connections_per_host is None:
            return ""
        hosts = self._server._requests.hosts
        if hosts is None:
            hosts = self._server._requests.count_hosts(self._server.ipv6_prefix_length)
        enough = hosts.of(client_address) >= self._server.max_connections_per_host
        return "max_connections_per_host" if enough else ""

    def _refuse(self, request: Any, client_address: Any, reason: str) -> None:
        self._server.statistics.refused[reason] += 1
        set_outcome("refused")
        try:
            self._server.handle_refusal(request, client_address, reason)
        except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
            self._server._failures.end_or_log(raised, "handle_refusal() failed")
        finally:
            self._server.close_request(request)

    async def identify(self, entry: InTask) -> bool:
        """Learn from its proxy whose connection it is; False if that client is not served."""
        assert self._server._loop is not None
        assert self._proxies is not None
        if not self._proxies.trust(entry.client_address):
            return True
        sock: Any = entry.request
        if not isinstance(sock, socket.socket) or sock.__class__.recv is not socket.socket.recv:
            raise TypeError(
                f"proxy_protocol needs plain sockets, and get_request() returned {sock!r}"
            )
        required = self._server.proxy_protocol == "required"
        self.greeted.add(entry)
        try:
            async with time_limit(self._server._loop, "proxy_timeout", self._server.proxy_timeout):
                header = await read_header(self._server._loop, sock, required=required)
        except ProxyHeaderError as error:
            self._server._client_log.log(
                "proxy", logging.INFO, "a proxy at %r: %s", entry.client_address, error
            )
            self._refuse(sock, entry.client_address, "proxy_protocol")
            return False
        except OSError as error:
            if isinstance(error, TimedOut):
                if not required:
                    # A client that waits for the server to speak first.
                    return True
                self._server._failures.on_timed_out(entry, error.option)
            mark(error, sock)
            raise
        finally:
            self.greeted.discard(entry)
        current_header.set(header)
        if header is not None and header.source is not None:
            reason = self._reason_to_refuse(header.source)
            if reason:
                self._refuse(sock, header.source, reason)
                return False
            self._server._requests.readdress(entry, header.source)
        return True

"""Connections, from the socket that was accepted to the one that is closed."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from ..errors import TimedOut
from ..optional_ssl import has_ssl, ssl
from ..requests.entries import InProgress, InTask
from ..requests.failures import Failures
from ..requests.handler_kinds import HandlerKind
from ..requests.registry import RequestsInProgress
from ..requests.stages import Stages
from ..requests.statistics import Statistics
from ..sockets.last_waits import FIRST_MESSAGE
from ..sockets.lingering import LingeringSockets
from ..sockets.plain_socket import mark
from ..sockets.readiness import is_ready
from ..sockets.silence import has_said_nothing
from ..sockets.stream import StreamSocket
from ..sockets.time_limits import NO_LIMITS, TimeLimits, limit_blocking, option_that_struck
from ..sockets.tls_handshake import shake_hands
from .admission import Admission
from .certificates import ContextSource
from .draining import Draining

logger = logging.getLogger("aiosocketserver")


class ConnectionsHost(Protocol):
    """What the connections ask of their server."""

    statistics: Statistics
    handshake_timeout: float | None
    _kind: HandlerKind
    _requests: RequestsInProgress
    _failures: Failures
    _draining: Draining


class Connections(Stages):
    """The connections of one server, from when they are accepted.

    - admission: of a server that has limits, and proxies before it
    - tls: where the TLS context comes from, of a server that has one
    """

    def __init__(
        self,
        server: ConnectionsHost,
        *,
        admission: Admission | None = None,
        tls: ContextSource | None = None,
    ) -> None:
        self._server = server
        self._tls = tls
        self.secures = tls is not None
        self.asks_proxies = admission is not None and admission.asks_proxies
        self._admission = admission
        # Those that wait for their PROXY header.
        self._greeted = admission.greeted if admission is not None else set[InTask]()
        self.limits = NO_LIMITS
        # Those that are closing: from when the server has a loop.
        self.lingering: LingeringSockets | None = None
        # Those that are in their TLS handshake.
        self._in_handshake: set[InTask] = set()
        self._told_of_handshakes = False

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        linger_timeout: float,
        limits: TimeLimits,
        on_closed: Callable[[], object],
    ) -> None:
        """Serve them on this loop from now on; `on_closed` is called when one has been closed."""
        self.lingering = LingeringSockets(loop, linger_timeout, on_closed=on_closed)
        self.limits = limits

    def closing(self) -> int:
        """How many are closing."""
        return 0 if self.lingering is None else len(self.lingering)

    async def identified(self, entry: InTask) -> bool:
        assert self._admission is not None
        return await self._admission.identify(entry)

    def prepared(self, entry: InTask) -> Any:
        if self._server._kind is not HandlerKind.COROUTINE:
            if has_ssl() and isinstance(entry.request, ssl.SSLSocket):
                self._check_encrypted(entry.request)
            if isinstance(entry.request, socket.socket) and not self.secures:
                limit_blocking(entry.request, self.limits)
            return entry.request
        return self.watched(entry)

    def _check_encrypted(self, request: ssl.SSLSocket) -> None:
        """See to a connection that get_request() has encrypted itself, for a thread or child."""
        name = type(self._server).__qualname__
        if self.secures:
            raise TypeError(
                f"{name} has an ssl_context, and its get_request() returned an ssl.SSLSocket, "
                "which would be encrypted twice: have it return the plain socket"
            )
        if not self._told_of_handshakes and request.version() is not None:
            self._told_of_handshakes = True
            logger.warning(
                "get_request() of %s does the TLS handshake on the loop's thread, where one "
                "silent client holds up all: give the server ssl_context=context in its place, "
                "or wrap with do_handshake_on_connect=False and do it in finish_request()",
                name,
            )

    def watched(self, entry: InTask) -> StreamSocket:
        """Have the loop watch a connection from now on."""
        assert self.lingering is not None
        connection = StreamSocket(
            entry.request, self.lingering, self.limits, entry, self._server.statistics.traffic
        )
        entry.request = connection
        if self._server._draining.begun:
            self._server._draining.tell(connection, entry)
        return connection

    async def secured(self, entry: InTask) -> Any:
        self._in_handshake.add(entry)
        try:
            return await self._secure(entry)
        finally:
            self._in_handshake.discard(entry)

    async def _secure(self, entry: InTask) -> Any:
        assert self._tls is not None
        context = self._tls.context
        connection = entry.request
        if isinstance(connection, socket.socket):
            try:
                # It takes the descriptor over.
                connection = entry.request = context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
                await shake_hands(connection, self._server.handshake_timeout)
            except OSError as error:
                mark(error, connection)
                if isinstance(error, TimedOut):
                    self._server._failures.on_timed_out(entry, error.option)
                raise
            limit_blocking(connection, self.limits)
        else:
            await connection.start_tls(context)
        return connection

    def is_handshakes(self, error: BaseException, request: Any) -> bool:
        return self.secures and isinstance(error, ssl.SSLError) and not _is_secured(request)

    def waits_for(self, entry: InProgress) -> str | None:
        if entry in self._in_handshake:
            return "handshake"
        if entry in self._greeted:
            return "proxy"
        return super().waits_for(entry)

    def end_unheard(self) -> None:
        for entry in [*self._greeted, *self._in_handshake]:
            connection = entry.request
            if isinstance(connection, StreamSocket):
                # The time of the last word of its handshake.
                silent = not connection._opening[1]
            else:
                silent = has_said_nothing(connection)
            if silent and monotonic() - entry.begun_at >= FIRST_MESSAGE:
                entry.outcome = "cut"
                entry.cancel()
        if self.lingering is not None:
            self.lingering.end_silent()

    async def wait_closed(self) -> None:
        if self.lingering is not None:
            await self.lingering.wait_closed()

    def abort_closing(self) -> None:
        if self.lingering is not None:
            self.lingering.abort()

    def is_clients_fault(self, error: BaseException, request: Any) -> bool:
        if super().is_clients_fault(error, request):
            return True
        if not isinstance(request, socket.socket):
            return False
        # A legacy handler's socket leaves no mark on its errors, so the state of the
        # connection tells: once reset, it is hung up. (getpeername() would not do: a
        # Unix socket keeps its peer.)
        lost = isinstance(error, ConnectionError) or (
            # No answer to what was sent, or to the keep-alive probes.
            isinstance(error, TimeoutError) and error.errno == errno.ETIMEDOUT
        )
        return lost and request.fileno() >= 0 and is_ready(request.fileno(), 0)

    def option_that_struck(self, error: BaseException, request: Any) -> str:
        if isinstance(request, socket.socket):
            return option_that_struck(error, request, self.limits)
        return ""

    def close_in_child(self, kept: object) -> None:
        for entry in self._server._requests:
            connection = entry.request
            if isinstance(connection, StreamSocket):
                connection._close_in_child()
            elif isinstance(connection, socket.socket) and connection is not kept:
                connection.close()
        if self.lingering is not None:
            self.lingering.close_in_child()
            self.lingering = None


def _is_secured(request: Any) -> bool:
    """Whether the handshake of a connection is done."""
    if isinstance(request, ssl.SSLSocket):
        return request.version() is not None
    return isinstance(request, StreamSocket) and request.ssl_object is not None

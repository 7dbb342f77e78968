"""Connections in tasks of their own, whoever accepts them."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import Callable, Collection, Sequence
from contextvars import copy_context
from time import monotonic
from typing import Annotated, Any, Literal, Unpack

from ..errors import TimedOut
from ..logs.limits import LogLimit
from ..optional_ssl import has_ssl, ssl
from ..options import table as option
from ..options.keywords import ServerOptions
from ..requests.entries import InProgress, InTask, current, set_outcome
from ..requests.handler_kinds import HandlerKind
from ..sockets.last_waits import FIRST_MESSAGE
from ..sockets.lingering import LingeringSockets
from ..sockets.plain_socket import mark
from ..sockets.readiness import is_ready
from ..sockets.silence import has_said_nothing
from ..sockets.stream import StreamSocket
from ..sockets.time_limits import (
    NO_LIMITS,
    TimeLimits,
    limit_blocking,
    option_that_struck,
    time_limit,
)
from ..sockets.tls_handshake import shake_hands
from ..sockets.unix import AF_UNIX
from .base import BaseServer
from .certificates import ContextSource
from .proxies import TrustedProxies, read_header
from .proxy_protocol import ProxyHeaderError, current_header

logger = logging.getLogger("aiosocketserver")


class ConnectionServer(BaseServer):
    """What servers of stream sockets do with a connection from when it is accepted."""

    address_family: int
    linger_timeout: Annotated[float, option.linger_timeout] = 2.0
    max_connections: Annotated[int | None, option.max_connections] = None
    max_connections_per_host: Annotated[int | None, option.max_connections_per_host] = None
    ipv6_prefix_length: Annotated[int, option.ipv6_prefix_length] = 64
    ssl_context: Annotated[
        ssl.SSLContext | Callable[[], ssl.SSLContext] | None, option.ssl_context
    ] = None
    tls_reload_interval: Annotated[float | None, option.tls_reload_interval] = None
    handshake_timeout: Annotated[float | None, option.handshake_timeout] = 30.0
    read_timeout: Annotated[float | None, option.read_timeout] = None
    idle_timeout: Annotated[float | None, option.idle_timeout] = None
    write_timeout: Annotated[float | None, option.write_timeout] = 60.0
    proxy_protocol: Annotated[Literal["off", "optional", "required"], option.proxy_protocol] = "off"
    proxy_trusted: Annotated[Collection[str], option.proxy_trusted] = ()
    proxy_timeout: Annotated[float | None, option.proxy_timeout] = 5.0

    _limits: TimeLimits = NO_LIMITS
    _lingering: LingeringSockets | None = None
    _tls: ContextSource | None = None
    _proxies: TrustedProxies | None = None
    _told_of_handshakes = False

    # Whether legacy handlers run on the loop's thread.
    _legacy_on_loop = False

    # Those that have one `max_connections` together, this one among them.
    _sharing: Sequence[ConnectionServer] = ()

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[..., Any],
        **options: Unpack[ServerOptions],
    ) -> None:
        """As `BaseServer`; also raises what making the TLS context raises."""
        super().__init__(server_address, RequestHandlerClass, **options)
        # Connections that wait for their PROXY header or TLS handshake.
        self._greeted: set[InTask] = set()
        self._memory_log = LogLimit()
        if self.ssl_context is not None:
            self._tls = ContextSource(self.ssl_context)
            self._secures = True
        if self.tls_reload_interval is not None and not (self._tls and self._tls.has_files()):
            raise ValueError(
                f"{type(self).__qualname__}.tls_reload_interval needs an ssl_context that tells "
                "its `files`, as aiosocketserver.CertificateFiles(certfile, keyfile)"
            )
        if self.proxy_protocol != "off":
            if not (self.proxy_trusted or self.address_family == AF_UNIX):
                raise ValueError(
                    f"{type(self).__qualname__}.proxy_protocol needs proxy_trusted, the networks "
                    'of the proxies, as ["10.1.0.0/16", "fd00::/8"]: anybody else could pretend '
                    "to be any client"
                )
            self._proxies = TrustedProxies(self.proxy_trusted)
            self._asks_proxies = True

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lingering = LingeringSockets(loop, self.linger_timeout, on_closed=self._room_made)
        self._limits = TimeLimits(
            handshake_timeout=self.handshake_timeout,
            read_timeout=self.read_timeout,
            idle_timeout=self.idle_timeout,
            write_timeout=self.write_timeout,
            on_timed_out=self._failures.on_timed_out,
        )

    def _max_requests(self) -> int:
        limit = super()._max_requests()
        if self.max_connections is None:
            return limit
        taken = sum(len(s._requests) + s._closing() for s in self._sharing if s is not self)
        return min(limit, self.max_connections - self._closing() - taken)

    def _resume(self) -> None:
        """Accept again if there is room."""
        raise NotImplementedError

    def _closing(self) -> int:
        """How many connections are closing; each has its descriptor, and its kernel's buffers."""
        return 0 if self._lingering is None else len(self._lingering)

    def _on_connection(self, request: Any, client_address: Any) -> None:
        """Serve a connection that was accepted, unless its host has enough of them.

        Raises MemoryError when there was none for it, and it is closed.
        """
        try:
            _ = self._take_on(request, client_address)
        except MemoryError:
            self.statistics.refused["memory"] += 1
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
            self._failures.end_or_log(
                error, "the connection of %r could not be served", client_address
            )

    def _take_on(self, request: Any, client_address: Any) -> asyncio.Task[None] | None:
        """The task that serves a connection; None when it was refused. Closed if that fails."""
        try:
            if not self._admits(request, client_address):
                return None
            return self._start_request(request, client_address)
        except BaseException:
            self.close_request(request)
            raise

    def _admits(self, request: Any, client_address: Any) -> bool:
        """Whether a connection may be served, as far as its peer tells; closes it if it may not."""
        if self._proxies is None:
            reason = self._reason_to_refuse(client_address)
        elif self._proxies.trust(client_address):
            # Its client is looked at when it is known.
            reason = ""
        elif self.proxy_protocol == "required":
            reason = "proxy_trusted"
        else:
            reason = self._reason_to_refuse(client_address)
        if reason:
            self._refuse(request, client_address, reason)
        return not reason

    def _reason_to_refuse(self, client_address: Any) -> str:
        """The option that one more connection of this client would exceed, or nothing."""
        if self.max_connections_per_host is None:
            return ""
        hosts = self._requests.hosts
        if hosts is None:
            hosts = self._requests.count_hosts(self.ipv6_prefix_length)
        enough = hosts.of(client_address) >= self.max_connections_per_host
        return "max_connections_per_host" if enough else ""

    def _refuse(self, request: Any, client_address: Any, reason: str) -> None:
        self.statistics.refused[reason] += 1
        set_outcome("refused")
        try:
            self.handle_refusal(request, client_address, reason)
        except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
            self._failures.end_or_log(raised, "handle_refusal() failed")
        finally:
            self.close_request(request)

    def handle_refusal(self, request: Any, client_address: Any, reason: str) -> None:
        """Called when a connection is refused, just before it is closed. May be overridden.

        `reason` is the name of the option that it would exceed or does not meet. On the
        loop's thread, between two connections that are accepted: it must be quick. The
        default logs at level DEBUG, because who sends a flood should not fill a disk.
        """
        self._client_log.log(
            ("refused", reason),
            logging.DEBUG,
            "a connection of %r was refused: %s",
            client_address,
            reason,
        )

    def _start_request(self, request: Any, client_address: Any) -> asyncio.Task[None]:
        entry = InTask(request, client_address)
        # Before the task, which under an eager task factory may end at once.
        self._requests.begun(entry)
        assert self._loop is not None
        entry.on_unbegun = functools.partial(self._end_unbegun, entry)
        context = copy_context()
        context.run(current.set, entry)
        serving = self._serve(entry)
        try:
            task = self._loop.create_task(serving, context=context)
        except BaseException:
            # As a task factory may that takes no context.
            serving.close()
            self._requests.ended(entry)
            raise
        # An eager task may have ended.
        if not task.done():
            entry.task = task
            # An eager task has begun.
            if not entry.has_begun:
                task.add_done_callback(entry.on_unbegun)
        return task

    def _end_unbegun(self, entry: InTask, task: asyncio.Task[None]) -> None:
        """Let go of a connection whose task was cancelled before it had begun."""
        request = entry.request
        self._requests.ended(entry)
        self.close_request(request)

    async def _serve_one(self, request: Any, client_address: Any) -> None:
        task = self._take_on(request, client_address)
        if task is None:
            return
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            # Awaiting the task itself would pass this on as well, but a request that is
            # cancelled ends without an error, and we would go on as if nothing had been.
            task.cancel()
            await asyncio.wait([task])
            raise

    async def _is_clients(self, entry: InTask) -> bool:
        """Learn from the proxy whose connection this is; whether that one may be served."""
        assert self._loop is not None
        assert self._proxies is not None
        if not self._proxies.trust(entry.client_address):
            return True
        sock: Any = entry.request
        if not isinstance(sock, socket.socket) or sock.__class__.recv is not socket.socket.recv:
            raise TypeError(
                f"proxy_protocol needs plain sockets, and get_request() returned {sock!r}"
            )
        required = self.proxy_protocol == "required"
        self._greeted.add(entry)
        try:
            async with time_limit(self._loop, "proxy_timeout", self.proxy_timeout):
                header = await read_header(self._loop, sock, required=required)
        except ProxyHeaderError as error:
            self._client_log.log(
                "proxy", logging.INFO, "a proxy at %r: %s", entry.client_address, error
            )
            self._refuse(sock, entry.client_address, "proxy_protocol")
            return False
        except OSError as error:
            if isinstance(error, TimedOut):
                if not required:
                    # A client that waits for the server to speak first.
                    return True
                self._failures.on_timed_out(entry, error.option)
            mark(error, sock)
            raise
        finally:
            self._greeted.discard(entry)
        current_header.set(header)
        if header is not None and header.source is not None:
            reason = self._reason_to_refuse(header.source)
            if reason:
                self._refuse(sock, header.source, reason)
                return False
            self._requests.readdress(entry, header.source)
        return True

    def _prepared(self, entry: InTask) -> Any:
        if self._kind is not HandlerKind.COROUTINE:
            if has_ssl() and isinstance(entry.request, ssl.SSLSocket):
                self._check_encrypted(entry.request)
            if isinstance(entry.request, socket.socket) and not self._secures:
                limit_blocking(entry.request, self._limits)
            return entry.request
        return self._watched(entry)

    def _check_encrypted(self, request: ssl.SSLSocket) -> None:
        """See to a connection that get_request() has encrypted itself, for a thread or child."""
        name = type(self).__qualname__
        if self._secures:
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

    def _watched(self, entry: InTask) -> StreamSocket:
        """Have the loop watch a connection from now on."""
        assert self._lingering is not None
        connection = StreamSocket(entry.request, self._lingering, self._limits, entry)
        entry.request = connection
        if self.draining:
            self._draining.tell(connection, entry)
        return connection

    async def _secured(self, entry: InTask) -> Any:
        self._greeted.add(entry)
        try:
            return await self._secure(entry)
        finally:
            self._greeted.discard(entry)

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
                await shake_hands(connection, self.handshake_timeout)
            except OSError as error:
                mark(error, connection)
                if isinstance(error, TimedOut):
                    self._failures.on_timed_out(entry, error.option)
                raise
            limit_blocking(connection, self._limits)
        else:
            await connection.start_tls(context)
        return connection

    def _is_handshakes(self, error: BaseException, request: Any) -> bool:
        return self._secures and isinstance(error, ssl.SSLError) and not _is_secured(request)

    def _waits_for(self, entry: InProgress) -> str | None:
        if entry not in self._greeted:
            return super()._waits_for(entry)
        # A plain socket is wrapped for TLS when the proxy has been heard.
        is_secured = isinstance(entry.request, StreamSocket) or (
            has_ssl() and isinstance(entry.request, ssl.SSLSocket)
        )
        return "handshake" if is_secured else "proxy"

    def _end_unheard(self) -> None:
        for entry in list(self._greeted):
            connection = entry.request
            if isinstance(connection, StreamSocket):
                # The time of the last word of its handshake.
                silent = not connection._opening[1]
            else:
                silent = has_said_nothing(connection)
            if silent and monotonic() - entry.begun_at >= FIRST_MESSAGE:
                entry.outcome = "cut"
                entry.cancel()
        if self._lingering is not None:
            self._lingering.end_silent()

    async def _wait_closed(self) -> None:
        if self._lingering is not None:
            await self._lingering.wait_closed()

    def _abort_closing(self) -> None:
        if self._lingering is not None:
            self._lingering.abort()

    def _is_clients_fault(self, error: BaseException, request: Any) -> bool:
        if super()._is_clients_fault(error, request):
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

    def _option_that_struck(self, error: BaseException, request: Any) -> str:
        if isinstance(request, socket.socket):
            return option_that_struck(error, request, self._limits)
        return ""

    def _close_in_child(self, kept: object) -> None:
        for entry in self._requests:
            connection = entry.request
            if isinstance(connection, StreamSocket):
                connection._close_in_child()
            elif isinstance(connection, socket.socket) and connection is not kept:
                connection.close()
        if self._lingering is not None:
            self._lingering.close_in_child()
            self._lingering = None
        super()._close_in_child(kept)


def _is_secured(request: Any) -> bool:
    """Whether the handshake of a connection is done."""
    if isinstance(request, ssl.SSLSocket):
        return request.version() is not None
    return isinstance(request, StreamSocket) and request.ssl_object is not None


def share_max_connections(servers: Sequence[ConnectionServer]) -> None:
    """Have the `max_connections` of each be for all of them together, before they serve."""
    for server in servers:
        server._sharing = servers

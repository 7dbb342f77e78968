"""Servers on stream sockets: TCP and Unix."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal, TypeGuard, cast

from ..optional_ssl import has_ssl, ssl
from ..options import table as option
from ..requests.handler_kinds import HandlerKind
from ..requests.pipeline import until_ended
from ..sockets.lingering import ClosingSocket, TLSEnd, linger
from ..sockets.readiness import is_ready
from ..sockets.stream import StreamSocket
from ..sockets.time_limits import TimeLimits
from ..sockets.tls_ending import SSLSocketEnd
from . import addresses
from .admission import Admission
from .certificates import CertificateWatch, ContextSource
from .connections import Connections
from .listener import Listener, is_listening
from .socket_server import SocketServer
from .taking import Taking


class TCPServer(SocketServer):
    """A server on TCP sockets, and the base of those on Unix stream sockets.

    For methods and hooks see `BaseServer`. The constructor binds and listens, unless
    `bind_and_activate` is False, and `server_address` holds the real address, with the
    real port, from then on. One server has one socket, of one address family: a name is
    looked up in it, and "" or None as host is its wildcard address, 0.0.0.0 or ::.

    A class variable without a keyword:

    - socket_type: `socket.SOCK_STREAM`
    """

    socket_type: int = socket.SOCK_STREAM
    request_queue_size: Annotated[int, option.request_queue_size] = 1024
    tcp_keep_alive: Annotated[int | None, option.tcp_keep_alive] = 60
    end_when_draining: Annotated[bool | None, option.end_when_draining] = None
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

    max_line_size: int = 64 * 1024
    max_block_size: int = 16 * 1024 * 1024

    # Whether nothing follows the next shutdown.
    _closes_when_drained = False

    # Whether legacy handlers run on the loop's thread.
    _legacy_on_loop = False

    _connections_class: type[Connections] = Connections

    def _make_parts(self) -> None:
        self._tls = None if self.ssl_context is None else ContextSource(self.ssl_context)
        if self.tls_reload_interval is not None and not (self._tls and self._tls.has_files()):
            raise ValueError(
                f"{type(self).__qualname__}.tls_reload_interval needs an ssl_context that tells "
                "its `files`, as aiosocketserver.CertificateFiles(certfile, keyfile)"
            )
        self._admission = Admission(self)
        self._connections = self._connections_class(self, admission=self._admission, tls=self._tls)
        self._stages = self._connections
        self._listener: Listener | None = None
        self._watch: CertificateWatch | None = None
        # For a get_request() that is overridden.
        self._taking: Taking | None = None

    def server_activate(self) -> None:
        """Called by the constructor to listen. May be overridden."""
        self.socket.listen(self.request_queue_size)

    def reload_tls(self) -> None:
        """Make the TLS context anew; connections from now on use it, others go on.

        Raises what the function raises that was given as `ssl_context`, or ValueError
        for a context with which no handshake can succeed; then the old one stays in
        use. Raises RuntimeError when there is no such function. Reads the files in the
        calling thread, any one.
        """
        if self._tls is None:
            raise RuntimeError("the server has no ssl_context")
        self._tls.reload()

    def get_request(self) -> tuple[Any, Any]:
        """Accept one connection. See `BaseServer.get_request`."""
        sock = self.socket
        if type(sock) is not socket.socket and _is_ssl_socket(sock):
            return _accept_without_handshake(sock)
        return sock.accept()

    def shutdown_request(self, request: Any) -> None:
        """Say that no more comes, see to it that the client gets all, and close the request.

        May be overridden.
        """
        end = None
        if isinstance(request, StreamSocket | socket.socket):
            try:
                if _is_encrypted(request):
                    end = SSLSocketEnd(request)
                    with contextlib.suppress(BlockingIOError):
                        end.send()
                else:
                    request.shutdown(socket.SHUT_WR)
                    if type(request) is socket.socket or _is_ssl_socket(request):
                        self._linger(request)
            except OSError:
                # ENOTCONN: the client has closed already.
                pass
        try:
            self.close_request(request)
        finally:
            # Not before: OpenSSL's state must not be used in two threads at once, and the
            # hook may look at it.
            if end is not None:
                self._hand_over(end, end)

    def close_request(self, request: Any) -> None:
        """Close an individual request. May be overridden."""
        request.close()

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

    def _linger(self, sock: socket.socket) -> None:
        """Keep a legacy handler's connection until its client has everything.

        A duplicate of the descriptor lingers, because the hooks that come may look at
        the socket itself.
        """
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if not sock.recv(1):
                # The client has closed, so it has sent all.
                return
        # Not sock.dup(), which an SSLSocket does not have.
        self._hand_over(socket.socket(fileno=os.dup(sock.fileno())))

    def _hand_over(self, sock: ClosingSocket, tls: TLSEnd | None = None) -> None:
        """Have the loop close a connection; where there is none, do it here, blocking."""
        lingering = self._connections.lingering
        if lingering is None:
            linger(sock, self.linger_timeout, tls)
        elif threading.get_ident() == self._loop_thread:
            lingering.close(sock, tls=tls)
        else:
            try:
                lingering.close_threadsafe(sock, tls)
            except RuntimeError:
                # The loop has ended.
                linger(sock, self.linger_timeout, tls)

    # Serving

    def _check_listening(self) -> None:
        if not is_listening(self.socket):
            raise RuntimeError(
                f"the socket of this {type(self).__qualname__} does not listen: call "
                "server_bind() and server_activate() first, as bind_and_activate=True does"
            )
        if _is_ssl_socket(self.socket) and (
            self._kind is HandlerKind.COROUTINE
            or self._legacy_on_loop
            or getattr(self.socket, "do_handshake_on_connect", True)
        ):
            raise TypeError(
                f"the socket of this {type(self).__qualname__} is an ssl.SSLSocket, whose TLS "
                "would be done on the loop's thread, where one silent client holds up all: leave "
                "it a plain socket, and give the server ssl_context=context, with which the "
                "handshake is each connection's own"
            )

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._loop_changed(loop)
        limits = TimeLimits(
            handshake_timeout=self.handshake_timeout,
            read_timeout=self.read_timeout,
            idle_timeout=self.idle_timeout,
            write_timeout=self.write_timeout,
            on_timed_out=self._failures.on_timed_out,
        )
        self._connections.attach(loop, self.linger_timeout, limits, on_closed=self._room_made)
        # Connections have it from the socket that they are accepted on.
        addresses.keep_alive(self.socket, self.tcp_keep_alive)

    def _start_accepting(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._listener is None:
            self._begin_reading()
            self._listener = Listener(
                loop,
                self.socket,
                get_request=(
                    self._next_request_if_any if self._overrides_get_request else self.get_request
                ),
                may_accept=self._may_accept,
                on_request=self._admission.on_connection,
                ends_server=self._failures.ends_server,
                on_pause=self._count_pause,
            )
        self._listener.start()
        if self._watch is None and self._tls is not None and self.tls_reload_interval is not None:
            self._watch = CertificateWatch(loop, self._tls, self.tls_reload_interval)

    def _next_request_if_any(self) -> tuple[Any, Any]:
        if not self._overrides_get_request:
            return self.get_request()
        # An overridden one may try again until there is somebody, as many that were
        # written for a blocking socket do: on a loop it would do so for ever.
        sock = self.socket
        if sock.fileno() >= 0 and not is_ready(sock.fileno(), select.POLLIN):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if not isinstance(cast("object", sock), socket.socket):
            return self.get_request()
        # Or make the socket blocking, and accept once more.
        taking = self._taking
        if taking is None or taking.sock is not sock:
            taking = self._taking = Taking(sock, may_wait=lambda: False)
        taking.begin()
        try:
            return self.get_request()
        finally:
            taking.end()

    def _suspend_accepting(self) -> None:
        if self._listener is not None:
            self._listener.suspend()

    def _stop_accepting(self) -> None:
        super()._stop_accepting()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
            self._end_reading()

    async def _drain(self) -> None:
        if self._listener is not None:
            await self._listener.drain(self.request_queue_size)
            if self._closes_when_drained:
                # Who comes now is refused at once, and not reset at the end.
                self.server_close()

    async def _serve_one(self, request: Any, client_address: Any) -> None:
        task = self._admission.take_on(request, client_address)
        if task is not None:
            await until_ended(task)

    def _max_requests(self) -> int:
        return self._admission.limited(super()._max_requests())

    def _room_made(self) -> None:
        self._admission.room_made()

    @property
    def _ends_idle(self) -> bool:
        return bool(self.end_when_draining)

    def _closing(self) -> int:
        return self._connections.closing()

    def _resume(self) -> None:
        if self._listener is not None:
            self._listener.resume()

    def _close_in_child(self, kept: object) -> None:
        self._listener = None
        super()._close_in_child(kept)


def share_max_connections(servers: Sequence[TCPServer]) -> None:
    """Have the `max_connections` of each be for all of them together, before they serve."""
    admissions = [server._admission for server in servers]
    for each in admissions:
        each.sharing = admissions


def _accept_without_handshake(sock: ssl.SSLSocket) -> tuple[ssl.SSLSocket, Any]:
    """As `accept` of a socket that was put in the server's place while it serves.

    Its own would do the handshake on the loop. A thread or child does it when it first
    reads or writes.
    """
    sock.setblocking(False)
    connection, client_address = socket.socket.accept(sock)
    secured = sock.context.wrap_socket(
        connection,
        server_side=True,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=getattr(sock, "suppress_ragged_eofs", True),
    )
    return secured, client_address


def _is_ssl_socket(request: object) -> TypeGuard[ssl.SSLSocket]:
    return has_ssl() and isinstance(request, ssl.SSLSocket)


def _is_encrypted(request: object) -> TypeGuard[ssl.SSLSocket]:
    """Whether it is a legacy handler's connection on which TLS has begun and not ended."""
    return _is_ssl_socket(request) and request.fileno() >= 0 and request.version() is not None


if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer):
        """A server on Unix stream sockets. The address is a path, or `"\\0name"` (Linux).

        A path where a socket lies that nobody has open is replaced, and the path is
        removed by `server_close`; see `aiosocketserver.servers.addresses.bind`.
        """

        address_family: int = socket.AF_UNIX

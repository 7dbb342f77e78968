"""Servers on stream sockets: TCP and Unix."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypeGuard, Unpack, cast

from ..optional_ssl import has_ssl, ssl
from ..options import table as option
from ..options.keywords import ServerOptions
from ..requests.handler_kinds import HandlerKind
from ..sockets.lingering import ClosingSocket, TLSEnd, linger
from ..sockets.readiness import is_ready
from ..sockets.stream import StreamSocket
from ..sockets.timeouts import put_back, set_while_read
from ..sockets.tls_ending import SSLSocketEnd
from ..sockets.unix import AF_UNIX
from . import addresses
from .certificates import CertificateWatch
from .connections import ConnectionServer
from .given_socket import check_given_socket
from .listener import Listener, is_listening
from .socket_paths import SocketPath
from .taking import Taking


class TCPServer(ConnectionServer):
    """A server on TCP sockets, and the base of those on other sockets.

    For methods and hooks see `BaseServer`. The constructor binds and listens, unless
    `bind_and_activate` is False, and `server_address` holds the real address, with the
    real port, from then on. One server has one socket, of one address family: a name is
    looked up in it, and "" or None as host is its wildcard address, 0.0.0.0 or ::.

    A class variable without a keyword:

    - socket_type: `socket.SOCK_STREAM`
    """

    address_family: Annotated[int, option.address_family] = socket.AF_INET
    socket_type: int = socket.SOCK_STREAM
    request_queue_size: Annotated[int, option.request_queue_size] = 1024
    allow_reuse_address: Annotated[bool, option.allow_reuse_address] = True
    allow_reuse_port: Annotated[bool, option.allow_reuse_port] = False
    tcp_keep_alive: Annotated[int | None, option.tcp_keep_alive] = 60
    # Whether nothing follows the next shutdown.
    _closes_when_drained = False

    max_line_size: int = 64 * 1024
    max_block_size: int = 16 * 1024 * 1024
    unix_mode: Annotated[int | None, option.unix_mode] = None
    unix_owner: Annotated[int | str | None, option.unix_owner] = None
    unix_group: Annotated[int | str | None, option.unix_group] = None

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[..., Any],
        bind_and_activate: bool = True,
        *,
        sock: socket.socket | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        """Make the server; bind and listen unless `bind_and_activate` is False. May be extended.

        - sock: a socket that is bound, for the server to have as its own; the address is
          None then. `server_bind` is not called, so nothing is done that belongs to
          binding (allow_reuse_address, unix_mode, ...), and the path of a Unix socket
          stays at the end. `server_activate` is called as without, also for a socket that
          listens already: with `bind_and_activate=False` it keeps the backlog that it has

        Beside what `BaseServer` raises: TypeError or ValueError for an address of the
        wrong form or a socket that cannot be served on, `socket.gaierror` for a name that
        does not resolve, and OSError, which names the address, when it cannot be bound.
        When it raises, `sock` is left open, and is the caller's.
        """
        super().__init__(server_address, RequestHandlerClass, **options)
        self._listener: Listener | None = None
        self._watch: CertificateWatch | None = None
        self._timeout_before_serving: float | None = None
        # For a get_request() that is overridden.
        self._taking: Taking | None = None
        # Of a Unix socket that server_bind() has bound.
        self._path: SocketPath | None = None
        if sock is not None:
            check_given_socket(
                sock, family=self.address_family, kind=self.socket_type, address=server_address
            )
            self._take_over(sock)
        else:
            family = addresses.family_of(server_address, self.address_family)
            if family != self.address_family:
                self.address_family = family
            self.server_address = addresses.without_none(server_address)
            self.socket = socket.socket(self.address_family, self.socket_type)
        if bind_and_activate:
            try:
                if sock is None:
                    self.server_bind()
                self.server_activate()
            except BaseException:
                if sock is not None:
                    # For server_close() to close: the socket itself stays the caller's.
                    self.socket = sock.dup()
                self.server_close()
                raise

    def _take_over(self, sock: socket.socket) -> None:
        """Have an open socket as the server's own."""
        self.socket = sock
        self.server_address = sock.getsockname()
        self.address_family = sock.family
        self.socket_type = sock.type

    def server_bind(self) -> None:
        """Called by the constructor to bind the socket. May be overridden."""
        if self.address_family != AF_UNIX:
            if self.allow_reuse_address:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.allow_reuse_port:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._path = addresses.bind(
            self.socket,
            self.server_address,
            unix_mode=self.unix_mode,
            unix_owner=self.unix_owner,
            unix_group=self.unix_group,
        )
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Called by the constructor to listen. May be overridden."""
        self.socket.listen(self.request_queue_size)

    def server_close(self) -> None:
        """Stop accepting and close the listening socket; requests in progress go on.

        Removes the path of a Unix socket if `server_bind` has made it and it is still this
        server's. Never waits on the loop's thread: `shutdown` does. May be overridden.
        """
        super().server_close()
        path, self._path = self._path, None
        if path is None:
            self.socket.close()
        else:
            path.close(self.socket)

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
        lingering = self._lingering
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
        # Connections have it from the socket that they are accepted on.
        addresses.keep_alive(self.socket, self.tcp_keep_alive)

    def _start_accepting(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._listener is None:
            self._timeout_before_serving = set_while_read(self.socket, self._timeout_while_read())
            self._listener = Listener(
                loop,
                self.socket,
                get_request=(
                    self._next_request_if_any if self._overrides_get_request else self.get_request
                ),
                may_accept=self._may_accept,
                on_request=self._on_connection,
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

    def _count_pause(self) -> None:
        self.statistics.accept_pauses += 1

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
            put_back(self.socket, self._timeout_before_serving)

    async def _drain(self) -> None:
        if self._listener is not None:
            await self._listener.drain(self.request_queue_size)
            if self._closes_when_drained:
                # Who comes now is refused at once, and not reset at the end.
                self.server_close()

    def _room_made(self) -> None:
        for server in self._sharing or (self,):
            server._resume()

    def _resume(self) -> None:
        if self._listener is not None:
            self._listener.resume()

    def _close_in_child(self, kept: object) -> None:
        # They are the parent's, also when the handler calls server_close().
        self._listener = None
        self._path = None
        # The child that serves a datagram of this server answers on its socket.
        if not _is_datagram_of(self.socket, kept):
            self.socket.close()
        super()._close_in_child(kept)


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


def _is_datagram_of(sock: socket.socket, request: object) -> bool:
    """Whether a request is answered on `sock`, as it is or as its handler sees it."""
    if not isinstance(request, tuple):
        return False
    parts = cast("tuple[object, ...]", request)
    return any(part is sock or getattr(part, "_sock", None) is sock for part in parts)


if hasattr(socket, "AF_UNIX"):

    class UnixStreamServer(TCPServer):
        """A server on Unix stream sockets. The address is a path, or `"\\0name"` (Linux).

        A path where a socket lies that nobody has open is replaced, and the path is
        removed by `server_close`; see `aiosocketserver.servers.addresses.bind`.
        """

        address_family: int = socket.AF_UNIX

"""What servers of all kinds of sockets share: the address, the socket, and its path."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Annotated, Any, Unpack, cast

from ..options import table as option
from ..options.keywords import ServerOptions
from ..sockets.server_timeout import put_back, set_while_read
from ..sockets.unix import AF_UNIX
from . import addresses
from .base import BaseServer
from .given_socket import check_given_socket
from .socket_paths import SocketPath


class SocketServer(BaseServer):
    """A server on a socket of its own: the base of `TCPServer` and `UDPServer`."""

    socket_type: int

    address_family: Annotated[int, option.address_family] = socket.AF_INET
    allow_reuse_address: Annotated[bool, option.allow_reuse_address] = True
    allow_reuse_port: Annotated[bool, option.allow_reuse_port] = False
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
        """Make the server, and bind and activate it if `bind_and_activate`. May be extended.

        A server of connections listens when it is activated; one of datagrams has no more to do.

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
        self._make_parts()
        self._timeout_before_serving: float | None = None
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

    def _make_parts(self) -> None:
        """Make what the options ask for, and check it, before there is a socket."""

    def _begin_reading(self) -> None:
        """Have the socket's time-out be what it has to be while the loop reads it."""
        self._timeout_before_serving = set_while_read(self.socket, self._timeout_while_read())

    def _end_reading(self) -> None:
        """Put the socket's time-out back, unless it is closed."""
        put_back(self.socket, self._timeout_before_serving)

    def _count_pause(self) -> None:
        self.statistics.accept_pauses += 1

    def _close_in_child(self, kept: object) -> None:
        # It is the parent's, also when the handler calls server_close().
        self._path = None
        # There is none where the constructor has failed.
        sock = getattr(self, "socket", None)
        # The child that serves a datagram of this server answers on its socket.
        if sock is not None and not _is_datagram_of(sock, kept):
            sock.close()
        super()._close_in_child(kept)


def _is_datagram_of(sock: socket.socket, request: object) -> bool:
    """Whether a request is answered on `sock`, as it is or as its handler sees it."""
    if not isinstance(request, tuple):
        return False
    parts = cast("tuple[object, ...]", request)
    return any(part is sock or getattr(part, "_sock", None) is sock for part in parts)

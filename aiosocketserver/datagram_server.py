"""Servers on datagram sockets: UDP and Unix."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar

from ._handler_kinds import HandlerKind
from ._in_progress import InTask
from ._plain_socket import is_error_of
from ._socket_timeouts import put_back, set_while_read
from .datagram_socket import DatagramSocket, kernel_drops
from .datagrams import DatagramDispatcher
from .stream_server import TCPServer


class UDPServer(TCPServer):
    """A server on UDP sockets, whose handlers get one datagram each.

    Handlers run at the same time, so that answers may leave in another order than the
    datagrams came. For methods and hooks see `BaseServer`.

    Class variables, each also a keyword of the constructor, beside `BaseServer`'s:

    - address_family, allow_reuse_port: as in `TCPServer`
    - allow_reuse_address: False, as in socketserver: on UDP it would let another
      process take the port over
    - max_packet_size: bytes of a datagram that are received, the rest is cut off; 8192
    - max_concurrency: datagrams that are served at once, also in threads or children;
      1024
    - max_queue: datagrams that wait to be served, before the newest is dropped and
      counted (on a Unix socket senders wait instead); 1024

    A class variable without a keyword:

    - socket_type: `socket.SOCK_DGRAM`
    """

    socket_type: int = socket.SOCK_DGRAM
    allow_reuse_address: bool = False
    max_packet_size: int = 8192
    max_concurrency: int = 1024
    max_queue: int = 1024

    without_options: ClassVar[frozenset[str]] = frozenset(
        {
            "handshake_timeout",
            "idle_timeout",
            "ipv6_prefix_length",
            "linger_timeout",
            "max_block_size",
            "max_connections",
            "max_connections_per_host",
            "max_line_size",
            "proxy_protocol",
            "proxy_timeout",
            "proxy_trusted",
            "read_timeout",
            "request_queue_size",
            "ssl_context",
            "tcp_keep_alive",
            "tls_reload_interval",
            "write_timeout",
        }
    )
    """Options of `TCPServer` that would do nothing here; the constructor refuses them."""

    # Whether a sender waits while the socket's buffer is full, so that nothing is lost.
    _reliable = False

    # Python's own waiting must not come in between: MSG_DONTWAIT decides.
    _accept_timeout = None

    _dispatcher: DatagramDispatcher | None = None
    _datagram_socket: DatagramSocket | None = None

    @property
    def datagrams_dropped_by_kernel(self) -> int | None:
        """Datagrams that the kernel dropped because its buffer was full.

        Beside `statistics.datagrams_dropped`, what this server dropped. None where the
        kernel does not tell (Linux does, see SO_MEMINFO in socket(7)).
        """
        return kernel_drops(self.socket)

    def server_activate(self) -> None:
        """Nothing: a datagram socket does not listen. May be overridden."""

    def get_request(self) -> tuple[Any, Any]:
        """Receive one datagram: `(data, socket), client_address`. See `BaseServer.get_request`."""
        data, client_address = self.socket.recvfrom(self.max_packet_size, socket.MSG_DONTWAIT)
        return (data, self.socket), client_address

    def shutdown_request(self, request: Any) -> None:
        """Nothing is to be shut down, so only `close_request` is called. May be overridden."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Nothing is to be closed. May be overridden."""

    # Serving

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        self._datagram_socket = DatagramSocket(self.socket, loop)

    def _check_listening(self) -> None:
        # TCPServer's does not apply.
        pass

    def _start_accepting(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._dispatcher is None:
            self._timeout_before_serving = set_while_read(self.socket, self._accept_timeout)
            self._dispatcher = DatagramDispatcher(
                loop,
                self.socket,
                self._requests,
                self.statistics,
                get_request=self.get_request,
                serve=self._serve,
                max_requests=self._max_requests,
                max_queue=self.max_queue,
                reliable=self._reliable,
            )
        self._dispatcher.start()

    def _suspend_accepting(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.stop()

    def server_close(self) -> None:
        """Stop receiving and close the socket. See `TCPServer.server_close`."""
        if self._datagram_socket is not None:
            self._datagram_socket._stop()
        super().server_close()

    def _stop_accepting(self) -> None:
        # TCPServer's has a listener to stop, which there is not.
        super()._stop_accepting()
        if self._dispatcher is not None:
            self._dispatcher.end()
            self._dispatcher = None
            if self.socket.fileno() >= 0:
                put_back(self.socket, self._timeout_before_serving)

    async def _drain(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.drain()

    def _max_requests(self) -> int:
        return self.max_concurrency

    def _room_made(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.room_made()

    def _prepared(self, entry: InTask) -> Any:
        request = entry.request
        # An overridden get_request() may return anything.
        if (
            self._kind is HandlerKind.COROUTINE
            and isinstance(entry.request, tuple)
            and request[1:] == (self.socket,)
        ):
            request = entry.request = request[0], self._datagram_socket
        return request

    def _is_clients_fault(self, error: BaseException, request: Any) -> bool:
        return self._kind is HandlerKind.COROUTINE and is_error_of(error, self._datagram_socket)

    def _close_in_child(self, kept: object) -> None:
        self._dispatcher = self._datagram_socket = None
        super()._close_in_child(kept)


if hasattr(socket, "AF_UNIX"):

    class UnixDatagramServer(UDPServer):
        """A server on Unix datagram sockets. The address is a path, or `"\\0name"` (Linux).

        A client is answered at the name that its own socket is bound to; without one it
        cannot be, and `sendto` raises OSError. See `UnixStreamServer` for what happens at
        the path.

        Nothing is lost: at `max_queue` the server receives no more until there is room,
        and senders wait (unix(7)).
        """

        address_family: int = socket.AF_UNIX

        _reliable = True

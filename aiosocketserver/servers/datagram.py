"""Servers on datagram sockets: UDP and Unix."""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, Any

from ..options import table as option
from ..requests.entries import current
from ..requests.handler_kinds import HandlerKind
from ..requests.stages import Stages
from ..sockets.datagram import DatagramSocket, kernel_drops
from ..sockets.datagram_errors import cannot_be_answered
from ..sockets.datagram_receiver import Arrival, DatagramReceiver
from ..sockets.plain_socket import is_error_of
from ..sockets.server_timeout import never_wait_to_read
from .dispatcher import DatagramDispatcher
from .legacy_datagram_socket import LegacyDatagramSocket
from .socket_server import SocketServer


class Datagrams(Stages):
    """The datagrams of one server."""

    def __init__(self, server: UDPServer) -> None:
        self._server = server

    def is_clients_fault(self, error: BaseException, request: Any) -> bool:
        if self._server._kind is HandlerKind.COROUTINE:
            match request:
                case (_, DatagramSocket() as sock):
                    return is_error_of(error, sock)
                case _:
                    return False
        entry = current.get()
        return entry is not None and cannot_be_answered(
            error, entry.client_address, self._server.address_family
        )


class UDPServer(SocketServer):
    """A server on UDP sockets, whose handlers get one datagram each.

    Handlers run at the same time, so that answers may leave in another order than the
    datagrams came. For methods and hooks see `BaseServer`.

    A class variable without a keyword:

    - socket_type: `socket.SOCK_DGRAM`
    """

    socket_type: int = socket.SOCK_DGRAM
    allow_reuse_address: bool = False
    max_packet_size: Annotated[int, option.max_packet_size] = 8192
    max_concurrency: Annotated[int, option.max_concurrency] = 1024
    max_queue: Annotated[int, option.max_queue] = 1024

    # Whether a sender waits while the socket's buffer is full, so that nothing is lost.
    _reliable = False

    _receiver: DatagramReceiver | None = None

    _dispatcher: DatagramDispatcher | None = None
    _datagram_socket: DatagramSocket | None = None

    def _make_parts(self) -> None:
        self._stages = Datagrams(self)

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
        receiver = self._receiver_of_socket()
        data, client_address, receiver.last = receiver.receive()
        return (data, self.socket), client_address

    # Serving

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        self._datagram_socket = DatagramSocket(self.socket, loop)

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._attach(loop)
        self._receiver_of_socket()
        if self._kind is not HandlerKind.COROUTINE:
            never_wait_to_read(self.socket)

    def _timeout_while_read(self) -> float | None:
        # Legacy handlers send on it, and wait in the kernel until there is room.
        return 0.0 if self._kind is HandlerKind.COROUTINE else None

    def _start_accepting(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._dispatcher is None:
            self._begin_reading()
            self._dispatcher = DatagramDispatcher(
                loop,
                self.socket,
                self._requests,
                self.statistics,
                get_request=(
                    self._next_of_override
                    if self._overrides_get_request
                    else self._next_request_if_any
                ),
                ends_server=self._failures.ends_server,
                on_pause=self._count_pause,
                before_batch=self._receiver_of_socket().forget_timeout,
                serve=self._serve,
                max_requests=self._max_requests,
                max_queue=self.max_queue,
                reliable=self._reliable,
                blocking=self._timeout_while_read() is None,
                client_log=self._client_log,
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
        super()._stop_accepting()
        if self._dispatcher is not None:
            self._dispatcher.end()
            self._dispatcher = None
            self._end_reading()

    async def _drain(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.drain()

    def _max_requests(self) -> int:
        return self.max_concurrency

    def _room_made(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.room_made()

    def _receiver_of_socket(self) -> DatagramReceiver:
        receiver = self._receiver
        if (
            receiver is None
            or receiver.socket is not self.socket
            or receiver.max_packet_size != self.max_packet_size
            or receiver.timeout != self._timeout_while_read()
        ):
            receiver = self._receiver = DatagramReceiver(
                self.socket, self.max_packet_size, self._timeout_while_read()
            )
        return receiver

    def _next_request_if_any(self) -> tuple[Any, Any]:
        if self._overrides_get_request:
            return self._next_of_override()
        assert self._receiver is not None
        data, client_address, arrival = self._receiver.receive()
        if arrival is None:
            if self._kind is HandlerKind.COROUTINE:
                return (data, self._datagram_socket), client_address
        elif arrival.truncated_from is not None:
            self._count_truncated(arrival)
        return (data, self._socket_for(client_address, arrival)), client_address

    def _next_of_override(self) -> tuple[Any, Any]:
        """What an overridden get_request() returns, which may read as it likes."""
        receiver = self._receiver_of_socket()
        # To see whether there is one, as TCPServer does; and it tells what a plain
        # recvfrom() does not.
        peeked = receiver.last = receiver.peek()
        request, client_address = self.get_request()
        arrival = self._receiver_of_socket().last
        match request:
            case (data, sock) if sock is self.socket:
                pass
            case _:
                data = sock = None
        if arrival is peeked:
            peeked.is_cut(data, self.max_packet_size)
        self._count_truncated(arrival)
        if sock is None:
            return request, client_address
        if arrival is not None and arrival.client_address != client_address:
            # Another process that shares the socket took the one that was told of.
            arrival = None
        return (data, self._socket_for(client_address, arrival)), client_address

    def _count_truncated(self, arrival: Arrival | None) -> None:
        if arrival is not None and arrival.truncated_from is not None:
            self.statistics.datagrams_truncated += 1
            self._receiver_of_socket().log_truncated(arrival)

    def _socket_for(self, client_address: Any, arrival: Arrival | None) -> object:
        """The socket of the server as the handler of one datagram sees it."""
        if self._kind is HandlerKind.COROUTINE:
            assert self._datagram_socket is not None
            return self._datagram_socket._of(arrival)
        return LegacyDatagramSocket(self, arrival or Arrival(client_address))

    def _close_in_child(self, kept: object) -> None:
        self._dispatcher = self._datagram_socket = self._receiver = None
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

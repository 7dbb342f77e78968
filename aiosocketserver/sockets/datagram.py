"""The socket of a datagram server, as its coroutine handlers see it."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, overload

from .datagram_errors import tells_of_client
from .datagram_receiver import Arrival
from .plain_socket import PlainSocket
from .unix import AF_UNIX
from .waiter import GIVE_WAY

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# As a number: `|` of two of socket's own flags makes a new enum member, which takes as
# long as all else that sendto() does here.
_MSG_DONTWAIT = int(socket.MSG_DONTWAIT)

_MISSING: Any = object()

# Sends of all handlers together before others on the loop have their turn.
_SEND_BATCH = 256

# Of the kernel about an address to answer from that this machine does not have, or no more.
NOT_OUR_ADDRESS = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH})

# A full receiver of Unix datagrams makes sendto() fail with EAGAIN, while poll() says
# that the sender may write (unix(7) has no event for it): then only time helps.
FIRST_RETRY = 0.001
LAST_RETRY = 0.05

# getsockopt(2) with SO_MEMINFO gives what `ss -m` shows; its last number counts what
# the kernel dropped. The same counter as SO_RXQ_OVFL's, at no cost for a datagram.
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8


def kernel_drops(sock: socket.socket) -> int | None:
    """Datagrams that the kernel dropped because nobody took them; None if it does not say."""
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
        return int(struct.unpack_from("=I", info, 4 * _MEMINFO_DROPS)[0])
    except (OSError, struct.error):
        return None


class _Output:
    """What the handlers that send on one socket share: turns, and the wait for room."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self.credit = _SEND_BATCH
        self._sock = sock
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def writable(self) -> None:
        """Return when there may be room."""
        waiter = self._loop.create_future()
        if not self._waiting:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        self._waiting.append(waiter)
        await waiter

    def _on_writable(self) -> None:
        # All of them: those that find no room wait again.
        self._loop.remove_writer(self._sock.fileno())
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def stop(self) -> None:
        """The socket is about to be closed: what waits for it fails."""
        if self._waiting:
            self._on_writable()


class DatagramSocket(PlainSocket):
    """The socket of a datagram server, as its coroutine handlers see it.

    It knows the datagram that it comes with: what it sends to that client's host leaves
    from the address that the client has asked, also where the server is bound to all
    addresses of the machine (`0.0.0.0`, `::`). An answer to a multicast or broadcast
    leaves from an address of the interface that it came in by.

    `sendto` is awaited; any number of handlers may wait in it. All methods belong to
    the thread of the loop that the server runs on.
    """

    __slots__ = ("__weakref__", "_arrival", "_loop", "_output", "_sock")

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        self._loop = loop
        self._output = _Output(sock, loop)
        # What is told of the datagram; None when that is nothing.
        self._arrival: Arrival | None = None

    def _of(self, arrival: Arrival | None) -> DatagramSocket:
        """The same socket for the handler of one datagram."""
        if arrival is None:
            return self
        made = DatagramSocket.__new__(DatagramSocket)
        made._sock = self._sock
        made._loop = self._loop
        made._output = self._output
        made._arrival = arrival
        return made

    @property
    def server_address(self) -> Any:
        """The address to which the client has sent its datagram, as from `getsockname()`.

        On a server that is bound to `0.0.0.0` or `::` the one of the machine's addresses
        that was asked, where the system tells (Linux, macOS); it may be a multicast or
        broadcast address.
        """
        if self._arrival is None:
            return self._sock.getsockname()
        return self._arrival.server_address(self._sock)

    @property
    def truncated_from(self) -> int | None:
        """How many bytes the datagram had if it was cut to `max_packet_size`; None if it is whole.

        On Unix sockets 65,536 stands for whatever is longer.
        """
        return None if self._arrival is None else self._arrival.truncated_from

    @overload
    async def sendto(self, data: ReadableBuffer, address: Any, /) -> int: ...
    @overload
    async def sendto(self, data: ReadableBuffer, flags: int, address: Any, /) -> int: ...
    async def sendto(self, data: ReadableBuffer, flags: Any, address: Any = _MISSING, /) -> int:
        """Send one datagram: `sendto(data, address)` or `sendto(data, flags, address)`.

        Waits while the kernel has no room; raises the OSErrors of socket.socket, and
        OSError (EDESTADDRREQ) for a client whose Unix socket has no name.
        """
        if address is _MISSING:
            flags, address = 0, flags
        if not address:
            raise self._mark(
                OSError(
                    errno.EDESTADDRREQ,
                    "the client cannot be answered: its socket is not bound to a name",
                )
            )
        output = self._output
        if output.credit <= 0:
            output.credit = _SEND_BATCH
            await GIVE_WAY
        output.credit -= 1
        answer_from = () if self._arrival is None else self._arrival.answer_from(address)
        retry = FIRST_RETRY
        while True:
            try:
                if answer_from:
                    return self._sock.sendmsg((data,), answer_from, flags | _MSG_DONTWAIT, address)
                return self._sock.sendto(data, flags | _MSG_DONTWAIT, address)
            except BlockingIOError:
                if self._sock.family == AF_UNIX:
                    await asyncio.sleep(retry)
                    retry = min(2 * retry, LAST_RETRY)
                else:
                    await output.writable()
            except OSError as error:
                if answer_from and error.errno in NOT_OUR_ADDRESS:
                    answer_from = ()
                    continue
                if tells_of_client(error, address, self._sock.family):
                    self._mark(error)
                raise

    def _stop(self) -> None:
        """The socket is about to be closed: what waits for it fails."""
        self._output.stop()

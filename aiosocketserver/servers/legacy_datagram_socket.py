"""The socket of a datagram server, as its legacy handlers see it."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from ..sockets.datagram import FIRST_RETRY, LAST_RETRY, NOT_OUR_ADDRESS
from ..sockets.datagram_receiver import Arrival
from ..sockets.unix import AF_UNIX

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

R = TypeVar("R")

_MSG_DONTWAIT = int(socket.MSG_DONTWAIT)

# The methods that read, and which of their arguments is `flags`.
_READS = {
    "recv": 1,
    "recv_into": 2,
    "recvfrom": 1,
    "recvfrom_into": 2,
    "recvmsg": 2,
    "recvmsg_into": 2,
}


class _Server(Protocol):
    """What it asks of its server."""

    socket: socket.socket
    # The thread that must not wait here.
    _loop_thread: int | None


class LegacyDatagramSocket(socket.socket):
    """The server's socket for the handler of one datagram, with calls that block.

    It has no descriptor of its own: what is not defined here is looked up on the
    server's socket. Defined here is what concerns one request: the address from which
    its client is answered, what is told of the datagram (see `DatagramSocket`), and the
    time-out, which on the server's own socket would be the loop's, too. In a hook on
    the loop's thread nothing waits.
    """

    __slots__ = ("_arrival", "_server", "_sock", "_timeout")

    def __init__(self, server: _Server, arrival: Arrival) -> None:
        # Without the one of socket.socket, which would open a descriptor.
        self._server = server
        self._sock = server.socket
        self._arrival = arrival
        self._timeout: float | None = None

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN or name.startswith("__"):
            return object.__getattribute__(self, name)
        found = getattr(object.__getattribute__(self, "_sock"), name)
        if name in _READS:
            return partial(self._read, found, _READS[name])
        return found

    @property
    def server_address(self) -> Any:
        """See `DatagramSocket.server_address`."""
        return self._arrival.server_address(self._sock)

    @property
    def truncated_from(self) -> int | None:
        """See `DatagramSocket.truncated_from`."""
        return self._arrival.truncated_from

    def settimeout(self, value: float | None, /) -> None:
        """As that of `socket.socket`, for this handler only."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = value

    def gettimeout(self) -> float | None:
        """As that of `socket.socket`."""
        return self._timeout

    @property
    def timeout(self) -> float | None:
        """As that of `socket.socket`."""
        return self._timeout

    def setblocking(self, flag: bool, /) -> None:
        """As that of `socket.socket`, for this handler only."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """As that of `socket.socket`."""
        return self._timeout != 0

    # Sending

    @overload
    def sendto(self, data: ReadableBuffer, address: Any, /) -> int: ...
    @overload
    def sendto(self, data: ReadableBuffer, flags: int, address: Any, /) -> int: ...
    def sendto(self, data: ReadableBuffer, *flags_and_address: Any) -> int:
        """As that of `socket.socket`; an answer leaves from the address that was asked."""
        if len(flags_and_address) not in (1, 2):
            # Which says what is wrong.
            return self._sock.sendto(data, *flags_and_address)
        flags = flags_and_address[0] if len(flags_and_address) == 2 else 0
        address = flags_and_address[-1]
        if self._arrival.answer_from(address):
            return self.sendmsg((data,), (), flags, address)
        return self._send(lambda flags: self._sock.sendto(data, flags, address), flags)

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """As that of `socket.socket`; an answer leaves from the address that was asked."""
        buffers, ancdata = list(buffers), list(ancdata)
        # The program's own messages come last, so that they count.
        answering = [*self._arrival.answer_from(address), *ancdata]

        def send(flags: int) -> int:
            try:
                return self._sock.sendmsg(buffers, answering, flags, address)
            except OSError as error:
                if answering == ancdata or error.errno not in NOT_OUR_ADDRESS:
                    raise
            return self._sock.sendmsg(buffers, ancdata, flags, address)

        return self._send(send, flags)

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        """As that of `socket.socket`."""
        return self._send(lambda flags: self._sock.send(data, flags), flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """As that of `socket.socket`."""
        self._send(lambda flags: self._sock.sendall(data, flags), flags)

    # Waiting

    def _send(self, send: Callable[[int], R], flags: int) -> R:
        timeout = self._timeout
        if threading.get_ident() == self._server._loop_thread:
            timeout = 0.0
        if timeout is None:
            return send(flags)
        return self._until_done(partial(send, flags | _MSG_DONTWAIT), select.POLLOUT, timeout)

    def _read(self, read: Callable[..., R], flags_at: int, *args: Any, **keywords: Any) -> R:
        # The server's socket makes nobody wait who reads.
        flags = args[flags_at] if len(args) > flags_at else keywords.get("flags", 0)
        timeout = self._timeout
        if flags & _MSG_DONTWAIT or threading.get_ident() == self._server._loop_thread:
            timeout = 0.0
        return self._until_done(partial(read, *args, **keywords), select.POLLIN, timeout)

    def _until_done(self, call: Callable[[], R], event: int, timeout: float | None) -> R:
        deadline = None if timeout is None else time.monotonic() + timeout
        retry = FIRST_RETRY
        while True:
            try:
                return call()
            except BlockingIOError:
                if timeout == 0:
                    raise
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                raise TimeoutError("timed out")
            if event == select.POLLOUT and self._sock.family == AF_UNIX:
                # There is no event for it: see `DatagramSocket.sendto`.
                time.sleep(retry if remaining is None else min(retry, remaining))
                retry = min(2 * retry, LAST_RETRY)
            else:
                poll = select.poll()
                poll.register(self._sock.fileno(), event)
                poll.poll(None if remaining is None else remaining * 1000)


_OWN = frozenset(vars(LegacyDatagramSocket))

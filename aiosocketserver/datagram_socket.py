"""The socket of a datagram server, as its coroutine handlers see it."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, overload

from ._plain_socket import PlainSocket
from ._waiter import GIVE_WAY
from .addresses import AF_UNIX

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# As a number: `|` of two of socket's own flags makes a new enum member, which takes as
# long as all else that sendto() does here.
_MSG_DONTWAIT = int(socket.MSG_DONTWAIT)

_MISSING: Any = object()

# Sends of all handlers together before others on the loop have their turn.
_SEND_BATCH = 256

# Errors of sendto() that tell of the client, and not of what the handler sends.
_CLIENT_GONE = frozenset(
    {errno.ECONNREFUSED, errno.ENOENT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPERM}
)

# A full receiver of Unix datagrams makes sendto() fail with EAGAIN, while poll() says
# that the sender may write (unix(7) has no event for it): then only time helps.
_FIRST_RETRY = 0.001
_LAST_RETRY = 0.05

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


class DatagramSocket(PlainSocket):
    """The socket of a datagram server, as its coroutine handlers see it.

    `sendto` is awaited; any number of handlers may wait in it. All methods belong to
    the thread of the loop that the server runs on.
    """

    __slots__ = ("_credit", "_waiting")

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(sock, loop)
        self._credit = _SEND_BATCH
        self._waiting: deque[asyncio.Future[None]] = deque()

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
        if self._credit <= 0:
            self._credit = _SEND_BATCH
            await GIVE_WAY
        self._credit -= 1
        retry = _FIRST_RETRY
        while True:
            try:
                return self._sock.sendto(data, flags | _MSG_DONTWAIT, address)
            except BlockingIOError:
                if self._sock.family == AF_UNIX:
                    await asyncio.sleep(retry)
                    retry = min(2 * retry, _LAST_RETRY)
                else:
                    await self._writable()
            except OSError as error:
                if error.errno in _CLIENT_GONE or _has_no_port(address):
                    self._mark(error)
                raise

    async def _writable(self) -> None:
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

    def _stop(self) -> None:
        """The socket is about to be closed: what waits for it fails."""
        if self._waiting:
            self._on_writable()


def _has_no_port(address: Any) -> bool:
    """Whether it is that of a forged datagram: nobody can be answered at port 0 (RFC 768)."""
    match address:
        case (_, 0, *_):
            return True
        case _:
            return False

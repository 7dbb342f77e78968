"""The socket of a legacy handler in a greenlet: it gives way to the loop instead of blocking."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..optional_ssl import ssl
from ..sockets.starttls import end_tls
from ..sockets.waiter import GIVE_WAY

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ..sockets.stream import StreamSocket
    from .pool import drive, waiting_greenlet
else:
    # Without greenlet no server makes one: GreenletMixIn says what to install. The class is
    # there even so, for isinstance() and for programs that name it in their annotations.
    with contextlib.suppress(ImportError):
        from .pool import drive, waiting_greenlet

# Attributes of an ssl.SSLSocket that an SSLObject has not.
_OF_SSL_SOCKET = {"do_handshake_on_connect": False, "suppress_ragged_eofs": True}

# Methods of both that move bytes, which have to go through the stream.
_MOVING = frozenset({"read", "write", "unwrap"})


class GreenletSocket(socket.socket):
    """A `socket.socket` that has the handler's greenlet wait where others block their thread.

    Every method is socket's own, with its meaning, its errors and `settimeout`; files of
    `makefile` wait in the same way. Under TLS it also has what an `ssl.SSLSocket` has:
    `getpeercert`, `version`, `verify_client_post_handshake`, `unwrap`... Only the handler
    may wait in it, on the thread of the server's loop: elsewhere, what would have to wait
    is a RuntimeError.

    It is a view of the `StreamSocket` that has the connection, without a descriptor of its
    own that could outlive it. `fileno()` is the connection's, which does not block:
    whoever reads it there sees BlockingIOError.
    """

    __slots__ = ("_stream",)

    _closed: bool
    _io_refs: int

    def __init__(self, stream: StreamSocket) -> None:
        # socket.socket's own would open a socket.
        self._stream = stream
        self._closed = False
        self._io_refs = 0

    def __getattr__(self, name: str) -> Any:
        tls = None if name.startswith("_") else self._stream.ssl_object
        if tls is not None:
            if name in _OF_SSL_SOCKET:
                return _OF_SSL_SOCKET[name]
            return getattr(self, f"_tls_{name}") if name in _MOVING else getattr(tls, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # Receiving

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As `socket.recv`."""
        # As the stream's, without a coroutine: this is what most handlers wait in.
        stream = self._stream
        if stream._receiving:
            raise stream._in_use("receiving from")
        stream._receiving = True
        try:
            while (data := stream._try_recv(bufsize, flags)) is None:
                awaited = stream._input()
                waiting_greenlet().wait(None if awaited is GIVE_WAY else awaited)
            return data
        except ssl.SSLEOFError:
            # As an SSLSocket does, unless it is told not to.
            return b""
        finally:
            stream._receiving = False

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`."""
        try:
            return drive(self._stream.recv_into(buffer, nbytes, flags))
        except ssl.SSLEOFError:
            return 0

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        """As `socket.recvfrom`: on a connection there is no address, so it is None."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(
        self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, Any]:
        """As `socket.recvfrom_into`."""
        return self.recv_into(buffer, nbytes, flags), None

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """As `socket.recvmsg`."""
        return drive(self._stream.recvmsg(bufsize, ancbufsize, flags))

    def recvmsg_into(
        self, buffers: Iterable[WriteableBuffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[tuple[int, int, bytes]], int, Any]:
        """As `socket.recvmsg_into`."""
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        size = sum(map(len, views))
        data, ancillary, message_flags, address = self.recvmsg(size, ancbufsize, flags)
        left = memoryview(data)
        for view in views:
            view[: len(left)] = left[: len(view)]
            left = left[len(view) :]
        return len(data), ancillary, message_flags, address

    # Sending

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """As `socket.send`."""
        return drive(self._stream.send(data, flags))

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """As `socket.sendall`."""
        stream = self._stream
        rest: bytes | memoryview = data if type(data) is bytes else memoryview(data).cast("B")
        sent = stream._try_sendall(rest, flags)
        if sent != len(rest):
            drive(stream._finish_sendall(rest, sent, flags))

    def sendto(self, data: ReadableBuffer, *flags_and_address: Any) -> int:
        """As `socket.sendto`: on a connection the kernel ignores the address (send(2))."""
        return self.send(data, flags_and_address[0] if len(flags_and_address) > 1 else 0)

    def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """As `socket.sendmsg`."""
        return drive(self._stream.sendmsg(buffers, ancdata, flags))

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As `socket.sendfile`."""
        return drive(self._stream.sendfile(file, offset, count))

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Encrypt the connection from now on: STARTTLS. See `StreamSocket.start_tls`.

        `context.wrap_socket()` would make another socket, which blocks the loop.
        """
        drive(self._stream.start_tls(context))

    # What an SSLSocket has: without TLS there is no `read`, `write` and `unwrap`

    def _tls_read(
        self,
        len: int = 1024,  # noqa: A002 - its name in ssl.SSLSocket
        buffer: WriteableBuffer | None = None,
    ) -> bytes | int:
        return self.recv(len) if buffer is None else self.recv_into(buffer, len)

    def _tls_write(self, data: ReadableBuffer) -> int:
        return self.send(data)

    def _tls_unwrap(self) -> GreenletSocket:
        drive(end_tls(self._stream))
        return self

    # What does not wait

    def fileno(self) -> int:
        """The connection's descriptor, which does not block; -1 when closed."""
        return self._stream.fileno()

    def settimeout(self, value: float | None) -> None:
        """As `socket.settimeout`."""
        self._stream.settimeout(value)

    def gettimeout(self) -> float | None:
        """As `socket.gettimeout`."""
        return self._stream.gettimeout()

    @property
    def timeout(self) -> float | None:
        """As `socket.timeout`."""
        return self._stream.gettimeout()

    def setblocking(self, flag: bool) -> None:
        """As `socket.setblocking`."""
        self._stream.setblocking(flag)

    def getblocking(self) -> bool:
        """As `socket.getblocking`."""
        return self._stream.getblocking()

    def getpeername(self) -> Any:
        """As `socket.getpeername`."""
        return self._stream.getpeername()

    def getsockname(self) -> Any:
        """As `socket.getsockname`."""
        return self._stream.getsockname()

    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> Any:
        """As `socket.getsockopt`."""
        return self._stream.getsockopt(level, optname, buflen)

    def setsockopt(self, *args: Any) -> None:
        """As `socket.setsockopt`."""
        if len(args) == 4:
            # The form without a value, of few options: see socket.setsockopt.
            self._stream._sock.setsockopt(*args)
        else:
            self._stream.setsockopt(*args)

    @property
    def family(self) -> socket.AddressFamily:
        """As `socket.family`."""
        return socket.AddressFamily(self._stream.family)

    @property
    def type(self) -> socket.SocketKind:
        """As `socket.type`."""
        return socket.SocketKind(self._stream.type)

    @property
    def proto(self) -> int:
        """As `socket.proto`."""
        return self._stream.proto

    def end_when_draining(self, ends: bool = True) -> None:
        """Have the wait for the next message end once the server shuts down: see `StreamSocket`."""
        self._stream.end_when_draining(ends)

    # Ending

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown`."""
        self._stream.shutdown(how)

    def _real_close(self) -> None:
        # close() calls it when no file of makefile() is open any more.
        self._stream.close()

    def detach(self) -> int:
        """As `socket.detach`. The descriptor blocks from then on as this socket did."""
        descriptor = self._stream.detach()
        self._closed = True
        if descriptor >= 0:
            os.set_blocking(descriptor, self._stream.getblocking())
        return descriptor

    def dup(self) -> socket.socket:  # type: ignore[override]
        """A plain socket for the same connection, which does not block."""
        duplicate = socket.socket(
            self.family, self.type, self.proto, fileno=os.dup(self._stream.fileno())
        )
        duplicate.setblocking(False)
        return duplicate

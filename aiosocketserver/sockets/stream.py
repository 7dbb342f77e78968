"""The socket that a coroutine handler holds: socket's own method names, awaited.

Each method tries the system call first and waits for readiness only when it would
block; no transport and no buffer is in between (docs/decisions/0001-no-transports.md).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from .core import CLOSED, StreamCore
from .last_waits import LastWaits
from .send_queue import SendQueue
from .sendfile import send_file
from .starttls import start_tls
from .time_limits import NO_LIMITS, TimeLimits
from .tls_ending import ChannelEnd
from .traffic import Traffic
from .unix import (
    CLOSE_ON_EXEC,
    PeerCredentials,
    descriptors_in,
    peer_credentials,
    rights,
    size_of_rights,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from ..optional_ssl import ssl
    from .lingering import LingeringSockets


# struct linger: on, for no time (socket(7)).
_RESET = struct.pack("@ii", 1, 0)


class StreamSocket(StreamCore):
    """A connected stream socket whose blocking methods are coroutines.

    `recv`, `recv_into`, `send`, `sendall`, `sendmsg` and `sendfile` are awaited; what
    does not block is as in `socket.socket`. Errors are its OSErrors, and a time-out
    set with `settimeout` raises TimeoutError. One task may receive while another one
    sends; two that receive, or two that send, get a RuntimeError (the `write` of a
    handler's `wfile` may be called by any number).

    A cancelled `recv` loses no byte: the next one gets it. A cancelled `sendall`,
    `sendmsg` or `sendfile` has sent an unknown part. When another task closes the
    socket, one that waits in it gets an OSError (EBADF).

    All methods belong to the thread of the loop that the server runs on.
    """

    __slots__ = ("_linger", "_lingering")

    def __init__(
        self,
        sock: socket.socket,
        lingering: LingeringSockets,
        limits: TimeLimits = NO_LIMITS,
        owner: object = None,
        traffic: Traffic | None = None,
    ) -> None:
        if getattr(type(sock), "recv", None) is not socket.socket.recv:
            raise TypeError(
                f"a handler on the loop needs a plain socket.socket, and get_request() returned "
                f"a {type(sock).__qualname__}, whose recv() may block the loop. For TLS have "
                "get_request() return the plain socket, and give the server "
                "(aiosocketserver.TCPServer...) ssl_context=context, or await "
                "self.request.start_tls(context) in the handler"
            )
        sock.setblocking(False)
        super().__init__(sock, lingering.loop, limits, owner, traffic or Traffic())
        self._lingering = lingering
        self._linger = True

    # Receiving

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive at most `bufsize` bytes; `b""` when the peer has closed its side."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while (data := self._try_recv(bufsize, flags)) is None:
                await self._input()
            return data
        finally:
            self._receiving = False

    async def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into `buffer`, at most `nbytes` bytes or as many as it holds; how many came."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while (count := self._try_recv_into(buffer, nbytes, flags)) is None:
                await self._input()
            return count
        finally:
            self._receiving = False

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any]:
        """Receive bytes and ancillary data: see `socket.recvmsg`.

        Descriptors among it are the caller's to close, and are not inherited by children.
        """
        return await self._receive(lambda: self._try_recvmsg(bufsize, ancbufsize, flags), flags)

    def _try_recvmsg(
        self, bufsize: int, ancbufsize: int, flags: int
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any] | None:
        try:
            data, ancillary, message_flags, address = self._sock.recvmsg(
                bufsize, ancbufsize, flags | CLOSE_ON_EXEC
            )
        except OSError as error:
            return None if self._recv_failed(error, flags) is None else (b"", [], 0, None)
        count = len(data)
        self._count_received(count, flags)
        # A message with descriptors ends a read early, so a short one says nothing of
        # what is left (unix(7)).
        self._peer_closed = not count
        return data, ancillary, message_flags & ~CLOSE_ON_EXEC, address

    async def recv_fds(
        self, bufsize: int, maxfds: int, flags: int = 0
    ) -> tuple[bytes, list[int], int, Any]:
        """Receive at most `bufsize` bytes and `maxfds` descriptors: see `socket.recv_fds`.

        Returns the bytes, the descriptors, which are the caller's to close and are not
        inherited by children, the flags of recvmsg(2), and the peer's address. With
        MSG_CTRUNC among the flags there were more descriptors, and the kernel has
        closed those.
        """
        received = await self.recvmsg(bufsize, size_of_rights(maxfds), flags)
        data, ancillary, message_flags, address = received
        return data, descriptors_in(ancillary), message_flags, address

    # Sending

    async def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send what the kernel takes of `data` at once, waiting until it takes any; how much."""
        self._begin_sending()
        try:
            deadline = self._deadline()
            while (sent := self._try_send(self._sock.send, data, flags)) is None:
                await self._output(deadline)
            return sent
        finally:
            self._end_sending()

    async def sendmsg(
        self,
        buffers: Iterable[ReadableBuffer],
        ancdata: Iterable[tuple[int, int, ReadableBuffer]] = (),
        flags: int = 0,
    ) -> int:
        """Send what the kernel takes of several buffers, and ancillary data; how much."""
        message = list(buffers), list(ancdata), flags
        self._begin_sending()
        try:
            return await self._send_once(lambda: self._try_send(self._sock.sendmsg, *message))
        finally:
            self._end_sending()

    async def send_fds(
        self, buffers: Iterable[ReadableBuffer], fds: Iterable[int], flags: int = 0
    ) -> int:
        """Send bytes, at least one, and descriptors over a Unix socket: see `socket.send_fds`.

        Returns how many bytes the kernel has taken; the descriptors went with the
        first. They stay open here.
        """
        return await self.sendmsg(buffers, [rights(fds)], flags)

    async def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Return when the kernel has all of `data`. The time-out is for the whole call."""
        rest: bytes | memoryview = data if type(data) is bytes else memoryview(data).cast("B")
        # Most often the kernel takes it all at once, and nobody can come in between.
        if (sent := self._try_sendall(rest, flags)) != len(rest):
            await self._finish_sendall(rest, sent, flags)

    async def _finish_sendall(self, rest: bytes | memoryview, sent: int | None, flags: int) -> None:
        """`sendall` of what its first try has left."""
        self._begin_sending()
        try:
            await self._send_rest(rest, sent, flags)
        finally:
            self._end_sending()

    async def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send a file opened in binary mode, from `offset`, at most `count` bytes; how many.

        Uses `os.sendfile` for a regular file, whose position is after the last byte
        sent on return, also when it raises (as in `socket.socket.sendfile`); other
        files are read block by block. The time-out is for each block. Reading a file
        blocks the loop as long as the disk takes.
        """
        return await send_file(self, file, offset, count)

    # What else a connection is asked

    def peer_credentials(self) -> PeerCredentials:
        """The process at the other end of a Unix socket, as it was when it connected.

        Raises OSError (EOPNOTSUPP) for other sockets, and on systems that do not tell.
        """
        return peer_credentials(self._sock)

    # Encryption

    @property
    def ssl_object(self) -> ssl.SSLObject | None:
        """What TLS says of the connection: `getpeercert`, `version`, `cipher`,
        `selected_alpn_protocol`... None when it is not encrypted.
        """
        return None if self._tls is None else self._tls.shown_object()

    async def start_tls(self, context: ssl.SSLContext) -> None:
        """Encrypt the connection from now on, as its server: STARTTLS.

        What was written before leaves before, as it is. The client has the server's
        `handshake_timeout`. Errors are `ssl.SSLError` and other OSErrors; then the
        connection is of no use any more.

        Raises ConnectionAbortedError when the rfile holds bytes that came before the
        handshake: somebody in between may have put them there, for the handler to take
        as encrypted ones (CVE-2011-0411).

        From then on `recv` returns `b""` only when the client has said that it sends no
        more (close_notify); a connection that just ends raises `ssl.SSLEOFError`.
        `shutdown(SHUT_WR)` says it to the client, who may go on sending; the FIN comes
        when the connection is closed.
        """
        on_late = functools.partial(self._strike, "handshake_timeout")
        await start_tls(self, context, self._limits.handshake_timeout, on_late)

    # Draining

    def end_when_draining(self, ends: bool = True) -> None:
        """Say whether the wait for the next message ends once the server shuts down (`draining`).

        The handler then finds what it finds when the client closes: `recv` and the rfile
        return `b""`, and `async for line in self.rfile` ends. What had arrived is read
        before, and a message that has begun is waited for.

        A handler that says True ends in any wait, and one that says False in none. Without
        a word of the handler the server judges, if its `end_when_draining` is set: a client
        that was answered since it has last sent something waits for nothing.
        """
        self._ends_when_draining = ends
        if self._timers is not None and self._timers.last_waits is not None:
            self._look_again()

    def _server_drains(self, last_waits: LastWaits) -> None:
        self._need_timers().drain(last_waits)
        self._look_again()

    # Time-outs of the server

    @property
    def _expired(self) -> str:
        """The option whose time-out has struck; the empty string if none has."""
        return "" if self._timers is None else self._timers.expired

    def _strike(self, option: str) -> None:
        """The time-out of an option has struck: tell it, and have every wait fail."""
        self._need_timers().strike(self, option)

    def _expire(self, option: str) -> bool:
        """Have every wait fail from now on; the caller tells of it. Whether there was a wait."""
        return self._need_timers().expire(self, option)

    # Ending

    def shutdown(self, how: int) -> None:
        """Shut down one side or both, as `socket.socket.shutdown` does.

        Bytes that were written before leave before: when the kernel does not take
        them now, the sending side is shut down as soon as it has.
        """
        try:
            if how not in (socket.SHUT_WR, socket.SHUT_RDWR) or self._sock is CLOSED:
                self._sock.shutdown(how)
                return
            if how == socket.SHUT_RDWR:
                self._sock.shutdown(socket.SHUT_RD)
            self._send_pending()
            self._half_close_requested = True
            if not self._queue and not self._sending:
                self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            # ENOTCONN when the peer has reset the connection.
            raise self._mark(error) from None

    def close(self) -> None:
        """Close the socket; what was written and what the peer still sends are seen to.

        This object is closed on return, and a task that waits in it gets an OSError.
        The kernel's socket stays until the peer has everything and has closed too, or
        the server's `linger_timeout` has passed (see `aiosocketserver.sockets.lingering`);
        not when SO_LINGER was set.
        """
        sock = self._release()
        if sock is None:
            return
        tls = self._tls
        if tls is not None:
            sock = tls.sock
        # What a sendall() under way still holds back would come after a torn message.
        queue, self._queue = self._queue, SendQueue()
        self._unsent = False
        self._sent += queue.sent
        self._count_sent(queue.limit - queue.sent)
        sent = queue.sent == queue.limit
        if tls is not None:
            if sent:
                # What was encrypted of a send under way leaves.
                self._count_sent(tls.disown())
            sent = sent and tls.has_ended
        if self._write_error is not None or (self._peer_closed and sent) or not self._linger:
            sock.close()
        elif tls is not None:
            self._lingering.close(sock, tls=ChannelEnd(tls, queue))
        else:
            half_closed = self._half_close_requested and sent and not self._sending
            self._lingering.close(sock, queue, half_closed=half_closed)

    def detach(self) -> int:
        """Give the descriptor away: it is no longer this object's to close.

        Raises BlockingIOError when bytes written before have not left yet: await
        `wfile.flush()` first; ValueError for an encrypted connection, whose keys would
        stay here.
        """
        if self._tls is not None:
            raise ValueError("a TLS connection cannot be detached: its keys stay here")
        self._send_pending()
        if self._queue:
            raise BlockingIOError(
                errno.EAGAIN,
                f"{len(self._queue)} bytes are written and not sent: await wfile.flush() first",
            )
        sock = self._release()
        return -1 if sock is None else sock.detach()

    def _waits_for(self) -> str | None:
        """`reading` or `writing`, while its handler waits for that. In any thread."""
        if self._read_waiter.waiting:
            return "reading"
        flushes = self._flushes
        is_flushed = flushes is not None and flushes.waiting
        return "writing" if is_flushed or self._is_sender_waiting() else None

    def _abort(self) -> None:
        """Reset the connection: the server's last word to a stuck handler."""
        sock = self._release()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()

    def _release(self) -> socket.socket | None:
        """Let the loop and every waiting task go of the socket, and return it."""
        sock = self._sock
        if sock is CLOSED:
            return None
        self._stop_watching()
        if self._writer_registered:
            self._unregister_writer()
        self._sock = CLOSED
        if self._tls is not None:
            self._tls.on_unsent = None
        self._input_expected = True
        if self._timers is not None:
            self._timers.stop()
        self._owner = None
        self._fail_waits(self._closed_meanwhile)
        return sock

    def _closed_meanwhile(self) -> OSError:
        return self._mark(
            OSError(errno.EBADF, "the socket was closed while a task was waiting in it")
        )

    def _close_in_child(self) -> None:
        """In a forked child: let go of the descriptor and leave the loop alone."""
        self._sock.close()

    # What does not wait

    def settimeout(self, value: float | None) -> None:
        """Seconds after which a wait raises TimeoutError; None for none; 0 never waits."""
        if value is not None and value < 0:
            raise ValueError(f"timeout must not be negative, and is {value!r}")
        # A wait under way keeps the time-out that it began with.
        if value is not None or self._timers is not None:
            self._need_timers().set_timeout(value)
        self._input_expected = True

    def gettimeout(self) -> float | None:
        """The time-out in seconds, or None."""
        return None if self._timers is None else self._timers.timeout

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` for True, `settimeout(0)` for False: as in `socket.socket`."""
        self.settimeout(None if flag else 0)

    def getblocking(self) -> bool:
        """Whether a method would wait."""
        return not self._never_waits

    def getpeername(self) -> Any:
        """The address of the peer."""
        try:
            return self._sock.getpeername()
        except OSError as error:
            # ENOTCONN when the peer has reset the connection.
            raise self._mark(error) from None

    def setsockopt(self, level: int, optname: int, value: int | ReadableBuffer) -> None:
        """Set a socket option: see setsockopt(2). SO_LINGER makes `close` immediate."""
        super().setsockopt(level, optname, value)
        if level == socket.SOL_SOCKET and optname == socket.SO_LINGER:
            self._linger = not self._sock.getsockopt(level, optname)

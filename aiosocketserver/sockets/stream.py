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
from typing import TYPE_CHECKING, Any, cast

from ..optional_ssl import ssl
from .output import CLOSED
from .receiving import ReceivingSide
from .send_queue import SendQueue
from .time_limits import NO_LIMITS, Deadline, TimeLimits
from .tls_channel import TLSChannel
from .tls_ending import ChannelEnd
from .traffic import Traffic
from .unix import PeerCredentials, peer_credentials

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from .lingering import LingeringSockets


# struct linger: on, for no time (socket(7)).
_RESET = struct.pack("@ii", 1, 0)

# Received at once in a handshake: certificates of a client take a few KiB.
_HANDSHAKE_SIZE = 16 * 1024


class StreamSocket(ReceivingSide):
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
        if not isinstance(cast("object", context), ssl.SSLContext):
            raise TypeError(f"start_tls() needs an ssl.SSLContext, not {context!r}")
        if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "start_tls() needs a context for a server, as ssl.create_default_context("
                "ssl.Purpose.CLIENT_AUTH) makes it, and got one for a client"
            )
        if self._tls is not None:
            raise RuntimeError("the connection is encrypted already")
        await self._flush()
        if self._unread:
            raise self._mark(
                ConnectionAbortedError(
                    errno.ECONNABORTED,
                    f"{len(self._unread)} bytes came before the TLS handshake, unencrypted",
                )
            )
        if self._receiving:
            raise self._in_use("receiving from")
        self._begin_sending()
        self._receiving = True
        # The handshake is one message, which a shutdown of the server waits for.
        ends, self._ends_when_draining = self._ends_when_draining, False
        limit = self._limits.handshake_timeout
        on_late = functools.partial(self._strike, "handshake_timeout")
        deadline = None if limit is None else Deadline(self._loop, limit, on_late)
        try:
            self._tls = await self._shake_hands(context)
            self._sock = cast(socket.socket, self._tls)
            self._input_expected = True
        except ssl.SSLError as error:
            raise self._mark(error) from None
        finally:
            if deadline is not None:
                deadline.cancel()
            self._receiving = False
            self._end_sending()
            self._ends_when_draining = ends
            self._opening = self._received, self._loop.time()

    async def _shake_hands(self, context: ssl.SSLContext) -> TLSChannel:
        channel = TLSChannel(self._sock, context, self._register_writer)
        done = False
        while not done:
            while (
                not (self._input_expected and self._credit > 0)
                or (received := self._try_recv_uncounted()) is None
            ):
                await self._input()
            # It is not counted, but the client has begun to speak.
            self._opening = self._received, self._loop.time()
            try:
                done, said = channel.shake_hands(received)
            except ssl.SSLError:
                # An alert, which helps the client to find out. It need not arrive.
                with contextlib.suppress(OSError):
                    self._sock.send(channel.alert())
                raise
            while said:
                if (sent := self._try_send_uncounted(said)) is None:
                    await self._output(self._deadline())
                else:
                    said = said[sent:]
        return channel

    # What TLS needs for itself is not counted. Counters must not fall, so that each is counted
    # elsewhere for the moment of the call.

    def _try_recv_uncounted(self) -> bytes | None:
        traffic, self._traffic = self._traffic, Traffic()
        before = self._received
        try:
            return self._try_recv(_HANDSHAKE_SIZE)
        finally:
            self._traffic, self._received = traffic, before

    def _try_send_uncounted(self, data: bytes) -> int | None:
        traffic, before = self._traffic, self._sent

        def send(data: bytes) -> int:
            # Now, and not before: what has been written leaves first, and is counted.
            nonlocal before
            before, self._traffic = self._sent, Traffic()
            return self._sock.send(data)

        try:
            return self._try_send(send, data)
        finally:
            self._traffic, self._sent = traffic, before

    async def _end_tls(self) -> None:
        """Say the end of TLS, wait for the client's, and go on in the open."""
        await self._flush()
        self._begin_sending()
        try:
            tls = self._tls
            assert tls is not None
            tls.say_end()
            deadline = self._deadline()
            while not tls.has_ended:
                await self._output(deadline)
            if await self.recv(1) or tls.has_more_in_the_open:
                raise self._mark(
                    ssl.SSLError(
                        "the client has sent more behind the end of TLS, or before its own"
                    )
                )
            self._tls, self._sock = None, tls.sock
            self._peer_closed, self._input_expected = False, True
        finally:
            self._end_sending()

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
        flushed = [future for _, future in self._flush_waiters or () if not future.done()]
        return "writing" if flushed or self._is_sender_waiting() else None

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
        if self._read_timeout is not None:
            self._read_timeout.stop()
            self._read_timeout = None
        if self._write_timeout is not None:
            self._write_timeout.stop()
            self._write_timeout = None
        if self._stall_timeout is not None:
            self._stall_timeout.stop()
            self._stall_timeout = None
        self._owner = None
        for waiter in (self._read_waiter, self._write_waiter):
            if waiter is not None and waiter.waiting:
                waiter.fail(self._closed_meanwhile())
        for _, future in self._flush_waiters or ():
            if not future.done():
                future.set_exception(self._closed_meanwhile())
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
        self._timeout = value
        self._limit_reading()
        self._input_expected = True

    def gettimeout(self) -> float | None:
        """The time-out in seconds, or None."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """`settimeout(None)` for True, `settimeout(0)` for False: as in `socket.socket`."""
        self.settimeout(None if flag else 0)

    def getblocking(self) -> bool:
        """Whether a method would wait."""
        return self._timeout != 0

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

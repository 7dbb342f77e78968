"""TLS in the place of a plain socket: the same calls, with OpenSSL in between.

OpenSSL works in memory here and never touches the descriptor: what it has encrypted is
bytes like any others, so a send that is cancelled cannot leave it in the middle of a
record, and reading never has to wait for writing (docs/decisions/0013-tls-in-memory.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..optional_ssl import ssl
from .tls_object import have_speak

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# Read from the kernel at once: a few records, of 16 KiB at most.
_RECEIVE_SIZE = 32 * 1024

# Every flag but those that a non-blocking socket has anyhow. Whole numbers: the enum's own
# operators would take as long as the encryption.
_NO_RECEIVE_FLAGS = ~int(socket.MSG_DONTWAIT)
_NO_SEND_FLAGS = ~int(socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))

# Encrypted at once, for what the kernel does not take has to stay here.
_SEND_SIZE = 64 * 1024


class TLSChannel:
    """The server's side of one TLS connection, with the methods that a non-blocking socket has.

    `send` takes a block wholly or not at all: until the kernel has all that a block
    became it raises BlockingIOError, and has to be called with the same bytes again.

    `on_unsent` is called when the kernel did not take what no sender will come again
    for: then `speak` has to be called when it takes more.
    """

    __slots__ = (
        "__weakref__",
        "_encrypt",
        "_end_said",
        "_incoming",
        "_is_shown",
        "_kept",
        "_outgoing",
        "_owed",
        "_unsent",
        "ends",
        "has_more",
        "in_a_record",
        "object",
        "on_unsent",
        "sock",
    )

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        on_unsent: Callable[[], object] | None = None,
    ) -> None:
        self.sock = sock
        self.on_unsent = on_unsent
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        # Our own way to write, whatever a handler's way does (see `shown_object`).
        self._encrypt = self.object.write
        # What was encrypted and the kernel has not taken, and for how many bytes of the
        # caller who will come again it stands.
        self._unsent: bytes | memoryview = b""
        self._owed = 0
        # Decrypted before our own end was said, which would have lost it.
        self._kept = b""
        self._end_said = False
        self._is_shown = False
        # Whether an end without close_notify is our own doing.
        self.ends = False
        # Whether `recv` may give more without new input from the kernel.
        self.has_more = False
        # Whether a part of a record has come, and the rest of it has not.
        self.in_a_record = False

    def __getattr__(self, name: str) -> Any:
        # What does not move bytes is the socket's own.
        return getattr(self.sock, name)

    # The handshake, whose bytes others carry

    def shake_hands(self, received: bytes) -> tuple[bool, bytes]:
        """One step, with what the client has sent (b"": its end).

        Returns whether it is done, and what has to be sent to the client. When the
        handshake fails, `alert` has the last words.
        """
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()
        try:
            self.object.do_handshake()
        except ssl.SSLWantReadError:
            return False, self._outgoing.read()
        # The client may have sent something right behind its last words.
        self.has_more = True
        self.in_a_record = self._incoming.pending > 0
        return True, self._outgoing.read()

    def alert(self) -> bytes:
        """What OpenSSL wants to tell the client about an error."""
        return self._outgoing.read()

    # Receiving

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As `socket.recv`; `b""` only when the client has said so (close_notify).

        Raises `ssl.SSLEOFError` when the connection ends without it, which an attacker
        can bring about (RFC 8446, 6.1).
        """
        if flags & _NO_RECEIVE_FLAGS:
            raise ValueError("recv() on a TLS connection takes no flags")
        if not self.has_more:
            received = self.sock.recv(_RECEIVE_SIZE)
            if received:
                self._incoming.write(received)
                self.in_a_record = True
                # There cannot be more, and OpenSSL's wrapper takes memory for all of it.
                bufsize = min(bufsize, len(received))
            elif self.ends:
                # OpenSSL would take it for an attack, and not send any more.
                return b""
            else:
                self._incoming.write_eof()
        elif self._kept:
            data, self._kept = self._kept[:bufsize], self._kept[bufsize:]
            return data
        try:
            data = self.object.read(bufsize)
        except ssl.SSLZeroReturnError:
            self.has_more = False
            self.speak()
            return b""
        except ssl.SSLWantReadError:
            self.has_more = False
            self.speak()
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        except ssl.SSLError:
            # It says so each time: nothing is left to wait for.
            self.has_more = True
            self.speak()
            raise
        self.in_a_record = False
        # A short read was the whole record.
        self.has_more = len(data) == bufsize or self._incoming.pending > 0
        if self._outgoing.pending:
            self.speak()
        return data

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`; see `recv`."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    # What OpenSSL says itself

    @property
    def has_to_speak(self) -> bool:
        """Whether something waits for the kernel that no sender will come again for."""
        return bool(self._unsent) and not self._owed

    def speak(self) -> None:
        """Send what OpenSSL has to say itself: to a key update, in an alert, at the end..."""
        if self._outgoing.pending:
            self._add_unsent()
        if self.has_to_speak:
            try:
                self._send_unsent()
            except OSError:
                # A broken connection will tell who sends or receives.
                self._unsent = b""
            else:
                self._tell_unsent()

    def _tell_unsent(self) -> None:
        if self._unsent and self.on_unsent is not None:
            self.on_unsent()

    def shown_object(self) -> ssl.SSLObject:
        """`object` for a handler, whose calls on it leave nothing in memory from then on."""
        if not self._is_shown:
            self._is_shown = True
            have_speak(self.object, weakref.WeakMethod(self.speak))
        return self.object

    # Sending

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Encrypt a block, at most 64 KiB, and send it; how many bytes of `data` that was."""
        if flags & _NO_SEND_FLAGS:
            raise ValueError("send() on a TLS connection takes no flags")
        if self._unsent and not self._send_unsent():
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        if not self._owed:
            if type(data) is not bytes or len(data) > _SEND_SIZE:
                data = memoryview(data).cast("B")[:_SEND_SIZE]
            if not data:
                return 0
            self._owed = self._encrypted(data)
            if not self._send_unsent():
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        owed, self._owed = self._owed, 0
        return owed

    def _encrypted(self, block: ReadableBuffer) -> int:
        """Have `_unsent` hold what a block becomes; how many bytes of it."""
        try:
            count = self._encrypt(block)
        except ssl.SSLWantReadError:
            raise ssl.SSLError(
                "the client renegotiates (RFC 5246, 7.4.1.1), which is not supported"
            ) from None
        self._add_unsent()
        return count

    def _add_unsent(self) -> None:
        said = self._outgoing.read()
        self._unsent = b"".join((self._unsent, said)) if self._unsent else said

    def _send_unsent(self) -> bool:
        """Give the kernel what it takes; whether it has all now."""
        unsent = self._unsent
        while unsent:
            try:
                count = self.sock.send(unsent)
            except BlockingIOError:
                self._unsent = unsent
                return False
            unsent = b"" if count == len(unsent) else memoryview(unsent)[count:]
        self._unsent = b""
        return True

    def sendmsg(
        self, buffers: list[ReadableBuffer], ancdata: list[Any] | None = None, flags: int = 0
    ) -> int:
        """As `socket.sendmsg`, without ancillary data."""
        if ancdata:
            raise ValueError("sendmsg() on a TLS connection takes no ancillary data")
        return self.send(b"".join(buffers), flags)

    def disown(self) -> int:
        """The sender gave up, cancelled or timed out: what it had encrypted is still sent first.

        Returns how many of the sender's bytes that stands for.
        """
        owed, self._owed = self._owed, 0
        self._tell_unsent()
        return owed

    # Ending

    @property
    def has_ended(self) -> bool:
        """Whether the kernel has all of what we said, the end (close_notify) with it."""
        return self._end_said and not self._unsent

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown`; but of SHUT_WR the client is told by close_notify alone.

        The FIN comes when the connection is closed, or was shut for receiving before:
        together with close_notify it makes clients lose what they have not read
        (docs/decisions/0011-lingering-close.md).
        """
        if how == socket.SHUT_WR:
            self.say_end()
            if not (self.ends and self.has_ended):
                return
        else:
            self.ends = True
        self.sock.shutdown(how)

    @property
    def has_more_in_the_open(self) -> bool:
        """Whether something has come behind the client's end."""
        return self._incoming.pending > 0

    def say_end(self) -> None:
        """Tell the client that no more comes. What the kernel does not take, `speak` sends."""
        if not self._end_said:
            self._end_said = True
            send_at_once(self.sock)
            self._make_end()
        self.speak()

    def _make_end(self) -> None:
        # unwrap() wants to read the client's end as well, and drops the data before it.
        if self.object.pending():
            self._kept += self.object.read(self.object.pending())
        unread = self._incoming.read()
        with contextlib.suppress(ssl.SSLError):
            # Most often SSLWantReadError: the client's has not come. Once the
            # connection has failed nothing may be said any more.
            self.object.unwrap()
        if unread:
            self._incoming.write(unread)
        if self._kept:
            self.has_more = True

    def recvmsg(self, *_: Any) -> Any:
        """Cannot be: there is no ancillary data."""
        raise ValueError("recvmsg() and recv_fds() do not work on a TLS connection")


def send_at_once(sock: socket.socket) -> None:
    """Have a close_notify leave though the client has not acknowledged what was sent before.

    Without the FIN, for which the kernel makes an exception, it would wait for that: 40 ms
    where the client delays it (RFC 9293, 3.7.4).
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

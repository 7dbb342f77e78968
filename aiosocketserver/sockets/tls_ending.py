"""The end of a TLS connection that is closed: our close_notify, then the client's.

Until the client has said its own, no FIN may follow: a client that finds both at once
takes the connection for lost, and may drop what it has not decrypted yet (uvloop's does).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from ..optional_ssl import ssl
from .lingering import LINGER_BYTES
from .tls_channel import TLSChannel, send_at_once

if TYPE_CHECKING:
    from .send_queue import SendQueue

# Read at once.
_BLOCK_SIZE = 64 * 1024

# Of a record of TLS (RFC 8446, 5.1): its type, two bytes for the version, two for its length.
_HEADER_SIZE = 5
_ALERT = 21
# TLS 1.3 hides the type of each record in it (5.2): an alert of two bytes, the type, and a tag.
_HIDDEN_ALERT_SIZE = 2 + 1 + 16


class ChannelEnd:
    """The end of a connection of a coroutine handler, or of one in a greenlet."""

    def __init__(self, channel: TLSChannel, rest: SendQueue) -> None:
        self._channel = channel
        self._rest = rest

    def send(self) -> None:
        """Send what is left, and close_notify. Raises BlockingIOError until the kernel has all."""
        try:
            self._rest.send(self._channel.send)
        except ssl.SSLError:
            # TLS has failed. What is encrypted, an alert perhaps, is all there is.
            self._rest.clear()
        self._channel.say_end()
        if not self._channel.has_ended:
            raise _would_block()

    def recv(self, bufsize: int) -> bytes:
        """What the client still sends; `b""` when it has said its end, or will never do so."""
        try:
            return self._channel.recv(bufsize)
        except ssl.SSLError:
            return b""


class SSLSocketEnd:
    """The end of a legacy handler's `ssl.SSLSocket`, which stays open for it.

    It is what encrypts, and the socket as well: a plain one after `shutdown`.
    """

    def __init__(self, secured: ssl.SSLSocket) -> None:
        self._secured = secured
        secured.setblocking(False)
        # A socket's own way to outlive a close(), which close_request() calls. OpenSSL is
        # bound to this descriptor: a duplicate would be of no use to it.
        self._file = secured.makefile("rb", buffering=0)
        self._end_said = False
        self._end_heard = False
        # While OpenSSL cannot read any more.
        self._records: _Records | None = None
        self._is_plain = False

    def fileno(self) -> int:
        """The descriptor, -1 when somebody has taken it away."""
        return self._secured.fileno()

    def send(self) -> None:
        """Send close_notify. Raises BlockingIOError until the kernel has it."""
        if self._end_said:
            return
        self._drop_input()
        send_at_once(self._secured)
        # OpenSSL does not tell any more once it has failed.
        version = self._secured.version()
        try:
            self._secured.unwrap()
            self._end_heard = True
        except ssl.SSLWantWriteError:
            raise _would_block() from None
        except ssl.SSLError as error:
            # Most often SSLWantReadError: the client's end has not come. Once TLS has
            # failed nothing may be said any more.
            if error.reason == "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                # Something came behind what was dropped. OpenSSL reads nothing after that.
                self._records = _Records(hide_types=version == "TLSv1.3")
        self._end_said = True

    def _drop_input(self) -> None:
        """Take what has come: unwrap() would read it, and fail because it is no end."""
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < LINGER_BYTES and (data := self.recv(_BLOCK_SIZE)):
                taken += len(data)

    def recv(self, bufsize: int) -> bytes:
        """What the client still sends; `b""` when it has said its end, or will never do so."""
        if self.fileno() < 0:
            # OpenSSL knows the number, which may be another connection's by now.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._is_plain:
            return self._secured.recv(bufsize)
        if self._end_heard:
            return b""
        if self._records is not None:
            data = socket.socket.recv(self._secured, bufsize)
            self._end_heard = not data or self._records.have_end(data)
            return b"" if self._end_heard else data
        try:
            data = self._secured.recv(bufsize)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise _would_block() from None
        except ssl.SSLError:
            data = b""
        self._end_heard = not data
        return data

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown`. TLS is over then."""
        self._is_plain = True
        self._secured.shutdown(how)

    def close(self) -> None:
        """Let go of the socket, which is closed if close_request() has done so."""
        self._file.close()


class _Records:
    """The records of a client that are not decrypted, and whether one may be its close_notify."""

    def __init__(self, *, hide_types: bool) -> None:
        self._hide_types = hide_types
        self._header = bytearray()
        # Bytes of the record's body that have not come.
        self._body = 0

    def have_end(self, data: bytes) -> bool:
        """Whether an alert begins in what comes next. Data of two bytes cannot be told from it."""
        rest = memoryview(data)
        while rest:
            if self._body:
                taken = min(self._body, len(rest))
                self._body -= taken
            else:
                taken = min(_HEADER_SIZE - len(self._header), len(rest))
                self._header += rest[:taken]
                if len(self._header) == _HEADER_SIZE:
                    kind, size = self._header[0], int.from_bytes(self._header[3:], "big")
                    if kind == _ALERT or (self._hide_types and size <= _HIDDEN_ALERT_SIZE):
                        return True
                    self._header.clear()
                    self._body = size
            rest = rest[taken:]
        return False


def _would_block() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

"""The socket that a coroutine handler holds: socket's own method names, awaited.

Each method tries the system call first and waits for readiness only when it would
block; no transport and no buffer is in between (docs/decisions/0001-no-transports.md).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from ._send_queue import SendQueue
from ._sending import CALL_COST, CLOSED, TURN_CREDIT, SendingSide
from ._unix import (
    CLOSE_ON_EXEC,
    PeerCredentials,
    descriptors_in,
    peer_credentials,
    size_of_rights,
)
from ._waiter import GIVE_WAY, Waiter, WaitTimeout

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from .lingering import LingeringSockets


class StreamSocket(SendingSide):
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

    __slots__ = (
        "_input_expected",
        "_linger",
        "_lingering",
        "_peer_closed",
        "_read_timeout",
        "_read_waiter",
        "_reader_registered",
        "_receiving",
    )

    def __init__(self, sock: socket.socket, lingering: LingeringSockets) -> None:
        if sock.__class__.recv is not socket.socket.recv:
            raise TypeError(
                f"a coroutine handler needs a plain socket.socket, and get_request() returned "
                f"a {sock.__class__.__qualname__}, whose recv() may block the loop"
            )
        sock.setblocking(False)
        super().__init__(sock, lingering.loop)
        self._lingering = lingering
        self._linger = True
        self._read_waiter = Waiter(self._loop)
        self._read_timeout: WaitTimeout | None = None
        self._reader_registered = False
        self._receiving = False
        # False after a short read: the next one would only tell that it would block.
        self._input_expected = True
        self._peer_closed = False

    async def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Receive at most `bufsize` bytes; `b""` when the peer has closed its side."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    data = self._try_recv(bufsize, flags)
                    if data is not None:
                        return data
                await self._input()
        finally:
            self._receiving = False

    async def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into `buffer`, at most `nbytes` bytes or as many as it holds; how many came."""
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    count = self._try_recv_into(buffer, nbytes, flags)
                    if count is not None:
                        return count
                await self._input()
        finally:
            self._receiving = False

    def _try_recv(self, bufsize: int, flags: int = 0) -> bytes | None:
        """What one system call gives, or None when it would block.

        For who may try: while something is expected, and there is credit.
        """
        try:
            data = self._sock.recv(bufsize, flags)
        except BlockingIOError as error:
            self._no_input(error, flags)
            return None
        except OSError as error:
            raise self._mark(error) from None
        count = len(data)
        self._credit -= count + CALL_COST
        if count < bufsize:
            # Nothing is left in the kernel, unless the call only peeked (flags). Who may
            # not wait has to look each time.
            self._input_expected = flags != 0 or self._timeout == 0
            self._peer_closed = not count
        return data

    def _try_recv_into(self, buffer: WriteableBuffer, nbytes: int, flags: int) -> int | None:
        try:
            count = self._sock.recv_into(buffer, nbytes, flags)
        except BlockingIOError as error:
            self._no_input(error, flags)
            return None
        except OSError as error:
            raise self._mark(error) from None
        self._credit -= count + CALL_COST
        if count < (nbytes or memoryview(buffer).nbytes):
            # As in _try_recv.
            self._input_expected = flags != 0 or self._timeout == 0
            self._peer_closed = not count
        return count

    async def recv_fds(
        self, bufsize: int, maxfds: int, flags: int = 0
    ) -> tuple[bytes, list[int], int, Any]:
        """Receive at most `bufsize` bytes and `maxfds` descriptors: see `socket.recv_fds`.

        Returns the bytes, the descriptors, which are the caller's to close and are not
        inherited by children, the flags of recvmsg(2), and the peer's address. With
        MSG_CTRUNC among the flags there were more descriptors, and the kernel has
        closed those.
        """
        if self._receiving:
            raise self._in_use("receiving from")
        self._receiving = True
        try:
            while True:
                if (self._input_expected or flags) and self._credit > 0:
                    received = self._try_recvmsg(bufsize, size_of_rights(maxfds), flags)
                    if received is not None:
                        data, ancillary, message_flags, address = received
                        return data, descriptors_in(ancillary), message_flags, address
                await self._input()
        finally:
            self._receiving = False

    def _try_recvmsg(
        self, bufsize: int, ancbufsize: int, flags: int
    ) -> tuple[bytes, list[tuple[int, int, bytes]], int, Any] | None:
        try:
            received = self._sock.recvmsg(bufsize, ancbufsize, flags | CLOSE_ON_EXEC)
        except BlockingIOError as error:
            self._no_input(error, flags)
            return None
        except OSError as error:
            raise self._mark(error) from None
        count = len(received[0])
        self._credit -= count + CALL_COST
        # A message with descriptors ends a read early, so a short one says nothing of
        # what is left (unix(7)).
        self._peer_closed = not count
        return received

    def peer_credentials(self) -> PeerCredentials:
        """The process at the other end of a Unix socket, as it was when it connected.

        Raises OSError (EOPNOTSUPP) for other sockets, and on systems that do not tell.
        """
        return peer_credentials(self._sock)

    def _no_input(self, error: BlockingIOError, flags: int) -> None:
        if self._timeout == 0 or flags & socket.MSG_DONTWAIT:
            # It has its price, or who tries again and again would keep the loop.
            self._credit -= CALL_COST
            raise self._mark(error) from None
        self._input_expected = False

    def _input(self) -> Awaitable[None]:
        """What to await before another try to receive."""
        if self._credit <= 0:
            self._credit = TURN_CREDIT
            return GIVE_WAY
        if self._queue.queued != self._queue.sent:
            self._send_pending()
        if self._timeout is not None:
            self._start_read_timeout(self._timeout)
        elif self._read_timeout is not None:
            self._read_timeout.stop()
        if not self._reader_registered:
            self._loop.add_reader(self._sock.fileno(), self._on_readable)
            self._reader_registered = True
        return self._read_waiter

    def _start_read_timeout(self, timeout: float) -> None:
        if self._read_timeout is None:
            self._read_timeout = WaitTimeout(self._loop, self._read_waiter, self._timed_out)
        self._read_timeout.start(self._loop.time() + timeout)

    def _on_readable(self) -> None:
        self._input_expected = True
        self._credit = TURN_CREDIT
        # While the task runs, `_write` need not see to it that its bytes leave.
        self._resuming = True
        try:
            resumed = self._read_waiter.resume()
        finally:
            self._resuming = False
        if not resumed:
            # Registered for the life of many waits, until input comes that nobody
            # waits for: each registration is a system call (design D3).
            self._loop.remove_reader(self._sock.fileno())
            self._reader_registered = False
            return
        queue = self._queue
        if queue.queued != queue.sent and not self._writer_registered:
            self._send_pending()

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
        the server's `linger_timeout` has passed (see `aiosocketserver.lingering`);
        not when SO_LINGER was set.
        """
        sock = self._release()
        if sock is None:
            return
        # What a sendall() under way still holds back would come after a torn message.
        queue, self._queue = self._queue, SendQueue()
        sent = queue.sent == queue.limit
        if self._write_error is not None or (self._peer_closed and sent) or not self._linger:
            sock.close()
        else:
            half_closed = self._half_close_requested and sent and not self._sending
            self._lingering.close(sock, queue, half_closed=half_closed)

    def detach(self) -> int:
        """Give the descriptor away: it is no longer this object's to close.

        Raises BlockingIOError when bytes written before have not left yet: await
        `wfile.flush()` first.
        """
        self._send_pending()
        if self._queue:
            raise BlockingIOError(
                errno.EAGAIN,
                f"{len(self._queue)} bytes are written and not sent: await wfile.flush() first",
            )
        sock = self._release()
        return -1 if sock is None else sock.detach()

    def _abort(self) -> None:
        """Close now and drop what is pending: the server's last word to a stuck handler."""
        sock = self._release()
        if sock is not None:
            sock.close()

    def _release(self) -> socket.socket | None:
        """Let the loop and every waiting task go of the socket, and return it."""
        sock = self._sock
        if sock is CLOSED:
            return None
        if self._reader_registered:
            self._loop.remove_reader(sock.fileno())
        if self._writer_registered:
            self._loop.remove_writer(sock.fileno())
        self._reader_registered = self._writer_registered = False
        self._sock = CLOSED
        self._input_expected = True
        for timeout in (self._read_timeout, self._write_timeout):
            if timeout is not None:
                timeout.stop()
        self._read_timeout = self._write_timeout = None
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

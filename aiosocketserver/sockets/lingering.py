"""Closing a connection so that the peer gets all of the answer.

`close(2)` on a TCP socket that still holds unread input sends a reset, and a reset
makes the peer's kernel throw away what it had received and not yet read (RFC 1122,
4.2.2.13; RFC 9112, 9.6). So a socket is closed in steps: send what is pending, say
that no more comes (FIN), take and drop what the peer still sends until it closes too,
and only then let go. Under TLS the FIN waits until the peer has answered close_notify.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import copy_context
from typing import Protocol, TypeVar, cast

from .readiness import wait_until_ready
from .send_queue import SendQueue
from .silence import has_everything
from .waiter import CLOCK_RESOLUTION

R = TypeVar("R")

# What is taken from a peer that goes on sending to a connection which is closing.
LINGER_BYTES = 4 * 1024 * 1024
_BLOCK_SIZE = 64 * 1024

# While the server shuts down, a connection whose peer has acknowledged everything is closed after
# so many seconds of silence: what the peer sent before it saw our FIN has arrived by then.
SILENCE = 0.25


class ClosingSocket(Protocol):
    """What is closed: a non-blocking socket, or what has taken its place."""

    def fileno(self) -> int: ...
    def recv(self, bufsize: int, /) -> bytes: ...
    def shutdown(self, how: int, /) -> None: ...
    def close(self) -> None: ...


class TLSEnd(Protocol):
    """What encrypts on such a socket: both ends are said there before the FIN."""

    def send(self) -> None:
        """Send what is left, and close_notify. Raises BlockingIOError until the kernel has all."""

    def recv(self, bufsize: int, /) -> bytes:
        """What the peer still sends; `b""` when it has said its end, or will never do so."""
        ...


class LingeringSockets:
    """The sockets of one server that are on their way to being closed.

    A step takes at most `timeout` seconds: sending has to make progress in that time,
    and the peer has to close in that time after the last byte was sent. All methods
    run on the loop's thread.

    One timer does for all of them. It stays when the last one is closed, for the next.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout: float,
        *,
        on_closed: Callable[[], object] = lambda: None,
    ) -> None:
        self.loop = loop
        self.timeout = timeout
        # Called after each one.
        self._on_closed = on_closed
        # When each runs out, the first one first, as all have the same time from now on.
        self._deadlines: OrderedDict[_Closing, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        # The timer's context: with that of the connection which sets it, the timer would keep
        # what belongs to that connection until it fires.
        self._context = copy_context()
        self._all_closed: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    def close(
        self,
        sock: ClosingSocket,
        queue: SendQueue | None = None,
        *,
        half_closed: bool = False,
        tls: TLSEnd | None = None,
    ) -> None:
        """Send what is in `queue`, then close `sock` as soon as the peer has everything.

        `sock` is non-blocking, and nothing of it is registered with the loop;
        `half_closed` if its sending side has been shut down; `tls` if it is encrypted,
        which then has what is left to send. It is closed on return when there is
        nothing to wait for.
        """
        _Closing(self, sock, queue, tls).start(half_closed)

    def close_threadsafe(self, sock: ClosingSocket, tls: TLSEnd | None = None) -> None:
        """`close`, called in another thread.

        Raises RuntimeError, and does nothing, when the loop has ended.
        """
        handed_over = _HandedOver(self, sock, tls)
        try:
            self.loop.call_soon_threadsafe(handed_over.close)
        except RuntimeError:
            handed_over.sock = None
            raise

    def abort(self) -> None:
        """Close all of them now."""
        for closing in list(self._deadlines):
            closing.end()

    def end_silent(self) -> None:
        """Close those whose peer has got everything and has said nothing since.

        A peer that says something now is answered by a reset, which harms nobody who has
        got all: so the end of a process need not wait for people at their terminals.
        """
        latest = self.loop.time() - SILENCE + self.timeout
        for closing, deadline in list(self._deadlines.items()):
            if deadline > latest:
                return
            if closing.has_silent_peer():
                closing.end()

    async def wait_closed(self) -> None:
        """Return when all of them are closed."""
        while self._deadlines:
            if self._all_closed is None:
                self._all_closed = self.loop.create_future()
            await asyncio.shield(self._all_closed)

    def close_in_child(self) -> None:
        """In a forked child: let go of the descriptors and leave the loop alone."""
        for closing in self._deadlines:
            closing.sock.close()

    def _restart_time(self, closing: _Closing) -> None:
        """Give it `timeout` seconds from now."""
        self._deadlines[closing] = self.loop.time() + self.timeout
        self._deadlines.move_to_end(closing)
        if self._timer is None:
            self._set_timer(self._deadlines[closing])

    def _end_late(self) -> None:
        """Let go of those that have run out of time, and look again when the next one does."""
        self._timer = None
        now = self.loop.time() + CLOCK_RESOLUTION
        for closing, deadline in list(self._deadlines.items()):
            if deadline > now:
                self._set_timer(deadline)
                return
            closing.end()

    def _set_timer(self, deadline: float) -> None:
        self._timer = self.loop.call_at(deadline, self._end_late, context=self._context)

    def _forget(self, closing: _Closing) -> None:
        self._deadlines.pop(closing, None)
        if not self._deadlines and self._all_closed is not None:
            self._all_closed.set_result(None)
            self._all_closed = None
        self._on_closed()


class _HandedOver:
    """A socket on its way from a thread to the loop, which may end before it takes it."""

    def __init__(self, owner: LingeringSockets, sock: ClosingSocket, tls: TLSEnd | None) -> None:
        self._owner = owner
        self.sock: ClosingSocket | None = sock
        self._tls = tls

    def close(self) -> None:
        sock, self.sock = self.sock, None
        assert sock is not None
        self._owner.close(sock, tls=self._tls)

    def __del__(self) -> None:
        # A loop that is closed drops its callbacks, and this with them.
        if self.sock is not None:
            self.sock.close()


class _Closing:
    """One socket that is being closed: a state machine of loop callbacks, without a task."""

    __slots__ = ("_owner", "_queue", "_reading", "_taken", "_tls", "_writing", "sock")

    def __init__(
        self,
        owner: LingeringSockets,
        sock: ClosingSocket,
        queue: SendQueue | None,
        tls: TLSEnd | None,
    ) -> None:
        self._owner = owner
        self.sock = sock
        self._queue = queue or None
        # Until the peer has said its end.
        self._tls = tls
        self._taken = 0
        # What the loop watches.
        self._reading = self._writing = False

    def start(self, half_closed: bool) -> None:
        try:
            if self._queue is not None or self._tls is not None:
                self._send()
            elif half_closed:
                self._await_end()
            else:
                self._half_close()
        except OSError:
            # The peer is gone, and with it the only one who would have cared.
            self.end()

    def _send(self) -> None:
        try:
            if self._tls is not None:
                self._tls.send()
            elif self._queue is not None:
                # Only a plain socket comes with a queue.
                self._queue.send(cast(socket.socket, self.sock).send)
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._owner.loop.add_writer(self.sock.fileno(), self._on_writable)
            self._owner._restart_time(self)
            return
        self._stop_writing()
        if self._tls is None:
            self._half_close()
        else:
            self._await_end()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._owner.loop.remove_writer(self.sock.fileno())

    def _half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)
        self._await_end()

    def _await_end(self) -> None:
        if not self._take_input():
            self._reading = True
            self._owner.loop.add_reader(self.sock.fileno(), self._on_readable)
            self._owner._restart_time(self)

    def _take_input(self) -> bool:
        """Drop what has arrived. True when the peer has closed or has sent too much."""
        while self._taken < LINGER_BYTES:
            try:
                data = (self._tls or self.sock).recv(_BLOCK_SIZE)
            except BlockingIOError:
                return False
            self._taken += len(data)
            if not data and self._tls is None:
                break
            if not data:
                self._tls = None
                self.sock.shutdown(socket.SHUT_WR)
        self.end()
        return True

    def _on_writable(self) -> None:
        try:
            self._send()
        except OSError:
            self.end()

    def _on_readable(self) -> None:
        try:
            self._take_input()
        except OSError:
            self.end()

    def has_silent_peer(self) -> bool:
        """Whether the peer's kernel has everything, and the peer has sent nothing to drop."""
        return self._reading and not self._taken and has_everything(self.sock)

    def end(self) -> None:
        """Let go of the socket, whatever the state."""
        if self._reading:
            self._reading = False
            self._owner.loop.remove_reader(self.sock.fileno())
        self._stop_writing()
        self.sock.close()
        self._owner._forget(self)


def linger(sock: ClosingSocket, timeout: float, tls: TLSEnd | None = None) -> None:
    """`LingeringSockets.close` without a loop, blocking: for a forked child, and after its end.

    Returns when the peer has closed, with `sock` closed; after `timeout` seconds at the
    latest, which are for all steps together here.
    """
    deadline = time.monotonic() + timeout
    with contextlib.closing(sock), contextlib.suppress(OSError):
        if tls is not None:
            _do(tls.send, sock, select.POLLOUT, deadline)
            _drop_input(tls, sock, deadline)
        sock.shutdown(socket.SHUT_WR)
        _drop_input(sock, sock, deadline)


def _drop_input(source: ClosingSocket | TLSEnd, sock: ClosingSocket, deadline: float) -> None:
    taken = 0
    while taken < LINGER_BYTES:
        data = _do(lambda: source.recv(_BLOCK_SIZE), sock, select.POLLIN, deadline)
        if not data:
            return
        taken += len(data)
    raise ConnectionAbortedError


def _do(call: Callable[[], R], sock: ClosingSocket, event: int, deadline: float) -> R:
    """What a call returns that must not block, tried until then. Raises TimeoutError."""
    while (rest := deadline - time.monotonic()) > 0:
        try:
            return call()
        except BlockingIOError:
            wait_until_ready(sock.fileno(), event, rest)
    raise TimeoutError

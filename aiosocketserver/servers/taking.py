"""A server's own socket, while its get_request() takes from it on the thread of a loop.

That a socket was readable does not mean that something is left: another process that
shares it may have been faster. Whoever then waits in accept(2) or recvfrom(2) holds the
whole loop until the next client comes.

A time-out that is put on the socket meanwhile would be seen by threads that send on it,
and by get_request() itself, which may hand it on to the connection. So for that time the
methods that take are others, for that thread only, and the time-out is left alone.
"""

from __future__ import annotations

import math
import os
import select
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, lockf

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Windows has none.
MSG_DONTWAIT: int = getattr(socket, "MSG_DONTWAIT", 0)

# Seconds between two looks whether a wait is over.
_LOOK = 0.1


class _Calls:
    """How many calls a socket is in: many threads may serve on one. It has its own class after."""

    def __init__(self, sock: socket.socket) -> None:
        self.number = 0
        self.own_class = type(sock)


_calls: weakref.WeakKeyDictionary[socket.socket, _Calls] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Taking:
    """A call of get_request() in this thread, from `begin` to `end`: `sock` does not wait in it.

    The socket's methods that take raise BlockingIOError when there is nothing. A
    get_request() that asks again may hold something already, which it would lose by
    that: a game's first player, when it wants two. So from the second time on it waits,
    as without a loop, while `may_wait` says so.
    """

    def __init__(self, sock: socket.socket, may_wait: Callable[[], bool]) -> None:
        self.sock = sock
        self.asked = False
        self._thread = get_ident()
        self._may_wait = may_wait
        self._outer: Taking | None = None
        with _lock:
            self._calls = _calls.setdefault(sock, _Calls(sock))

    def begin(self) -> None:
        """Enter the call."""
        # There is one where a get_request() serves another server.
        self._outer = _takings.get(self._thread)
        _takings[self._thread] = self
        self.asked = False
        calls = self._calls
        with _lock:
            if not calls.number:
                calls.own_class = own = type(self.sock)
                self.sock.__class__ = _classes.get(own) or _that_need_not_wait(own)
            calls.number += 1

    def end(self) -> None:
        """Leave it."""
        calls = self._calls
        with _lock:
            calls.number -= 1
            if not calls.number:
                self.sock.__class__ = calls.own_class
        if self._outer is None:
            del _takings[self._thread]
        else:
            _takings[self._thread] = self._outer

    def concerns(self, sock: socket.socket) -> bool:
        """Whether this is for `sock`: a duplicate waits as without a loop while that holds up
        nobody.
        """
        return sock is self.sock or not self._may_wait()

    def take(self, sock: socket.socket, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the socket that does not wait, again and again if this may wait."""
        timeout = sock.gettimeout()
        if sock is self.sock and not self.asked:
            self.asked = True
            return _call(sock, method, arguments) if timeout else method(sock, *arguments)
        end = math.inf if timeout is None else monotonic() + timeout
        while True:
            try:
                return _call(sock, method, arguments)
            except BlockingIOError:
                if timeout == 0 or not self._may_wait():
                    raise
                if monotonic() >= end:
                    raise TimeoutError("timed out") from None
            readable = select.poll()
            readable.register(sock, select.POLLIN)
            readable.poll(1000 * min(_LOOK, max(0, end - monotonic())))


def _call(sock: socket.socket, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call a method that waits for a time-out of the socket's own, and for nothing else."""
    if not sock.gettimeout() or sock.fileno() < 0:
        return method(sock, *arguments)
    # Another Python object of the same descriptor, which is non-blocking already. It has
    # a time-out of its own.
    twin = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
    try:
        twin.settimeout(0)
        return method(twin, *arguments)
    finally:
        twin.detach()


# The innermost one of each thread.
_takings: dict[int, Taking] = {}


def _taking_of(sock: socket.socket) -> Taking | None:
    """The one that a call of a method of `sock` belongs to."""
    taking = _takings.get(get_ident())
    return taking if taking is not None and taking.concerns(sock) else None


class _TakenFrom(socket.socket):
    """A socket whose methods that take do not wait within a `Taking`.

    So is what dup() makes of it meanwhile, and that for ever: outside of one it is as any other.
    """

    __slots__ = ()

    # What accept() is made with, ssl.SSLSocket's too.
    def _accept(self) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super()._accept()  # type: ignore[misc]
        return taking.take(self, _accept_at_once)

    def recv(self, bufsize: int, flags: int = 0, /) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super().recv(bufsize, flags)
        return taking.take(self, socket.socket.recv, bufsize, flags | MSG_DONTWAIT)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super().recvfrom(bufsize, flags)
        return taking.take(self, socket.socket.recvfrom, bufsize, flags | MSG_DONTWAIT)

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super().recvmsg(bufsize, ancbufsize, flags)
        return taking.take(self, socket.socket.recvmsg, bufsize, ancbufsize, flags | MSG_DONTWAIT)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super().recv_into(buffer, nbytes, flags)
        return taking.take(self, socket.socket.recv_into, buffer, nbytes, flags | MSG_DONTWAIT)

    def recvfrom_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super().recvfrom_into(buffer, nbytes, flags)
        return taking.take(self, socket.socket.recvfrom_into, buffer, nbytes, flags | MSG_DONTWAIT)

    def recvmsg_into(self, buffers: Any, ancbufsize: int = 0, flags: int = 0, /) -> Any:
        taking = _taking_of(self)
        if taking is None:
            return super().recvmsg_into(buffers, ancbufsize, flags)
        return taking.take(
            self, socket.socket.recvmsg_into, buffers, ancbufsize, flags | MSG_DONTWAIT
        )


_classes: dict[type[socket.socket], type[socket.socket]] = {socket.socket: _TakenFrom}


def _that_need_not_wait(own: type[socket.socket]) -> type[socket.socket]:
    """The class of a socket while something is taken from it: methods of `own` come first."""
    names = {"__slots__": (), "__module__": own.__module__, "__qualname__": own.__qualname__}
    made = type(own.__name__, (own, _TakenFrom), names)  # pyright: ignore[reportGeneralTypeIssues]
    _classes[own] = made
    return made


_primitive_accept: Callable[[socket.socket], Any] = socket.socket._accept  # type: ignore[attr-defined]

# Threads may serve on duplicates of one socket.
_accepting = threading.Lock()


def _forget_threads() -> None:
    """In a child: another thread may have held a lock when this one forked."""
    global _accepting, _lock
    _accepting, _lock = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _accept_at_once(sock: socket.socket) -> Any:
    if sock.gettimeout() is not None or sock.fileno() < 0:
        return _primitive_accept(sock)
    return accept_at_once(sock, _primitive_accept, sock)


def accept_at_once(
    sock: socket.socket, accept: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call what accepts on a socket that blocks; BlockingIOError when nobody waits there."""
    with _accepting:
        return while_nonblocking(sock.fileno(), accept, *args, **kwargs)


def while_nonblocking(
    descriptor: int, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    """Call a function with a listening socket made non-blocking, and put its mode back.

    O_NONBLOCK belongs to all processes that share the socket. One that took it off would
    have another one, which has just put it on, wait in accept(2); so they do it one after
    the other, with a lock of fcntl(2) on the socket. It is only tried, for its holder may
    have been stopped: BlockingIOError. A socket that cannot be locked stays non-blocking.
    """
    locked = _lock_others_out(descriptor)
    try:
        blocking = os.get_blocking(descriptor)
        os.set_blocking(descriptor, False)
        try:
            return function(*args, **kwargs)
        finally:
            if blocking and locked:
                os.set_blocking(descriptor, True)
    finally:
        if locked:
            lockf(descriptor, LOCK_UN)


def _lock_others_out(descriptor: int) -> bool:
    """Lock the socket for this process; False if it is none that can be locked."""
    if sys.platform == "win32":
        # No process gets its sockets by fork(2).
        return False
    try:
        lockf(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True

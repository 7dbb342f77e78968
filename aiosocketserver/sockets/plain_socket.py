"""What every socket of a handler has: the methods of `socket.socket` that do not wait."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ..logs.printable import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

E = TypeVar("E", bound=Exception)


def is_error_of(error: BaseException, connection: object) -> bool:
    """Whether `error` was raised by this very connection, and not by another of the handler's.

    A group counts when all of its errors do. Errors of a legacy handler's
    `socket.socket` bear no mark: there, the state of the connection has to tell.
    """
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(is_error_of(part, connection) for part in group.exceptions)
    return getattr(error, "_aiosocketserver_origin", None) is connection


def mark(error: E, connection: object) -> E:
    """Make the error recognisable as one of this connection (see `is_error_of`)."""
    error.__dict__["_aiosocketserver_origin"] = connection
    return error


class PlainSocket:
    """A non-blocking view of a socket that a loop watches; its classes have the two fields."""

    __slots__ = ()

    _sock: socket.socket
    _loop: asyncio.AbstractEventLoop

    def __repr__(self) -> str:
        return f"<{self.__class__.__name__} of {printable(repr(self._sock))}>"

    def _mark(self, error: E) -> E:
        return mark(error, self)

    def fileno(self) -> int:
        """The descriptor, -1 when closed. The loop owns its readiness: do not register it."""
        return self._sock.fileno()

    def getsockname(self) -> Any:
        """The address of this side."""
        return self._sock.getsockname()

    @overload
    def getsockopt(self, level: int, optname: int) -> int: ...
    @overload
    def getsockopt(self, level: int, optname: int, buflen: int) -> bytes: ...
    def getsockopt(self, level: int, optname: int, buflen: int = 0) -> int | bytes:
        """A socket option: see setsockopt(2)."""
        if buflen:
            return self._sock.getsockopt(level, optname, buflen)
        return self._sock.getsockopt(level, optname)

    def setsockopt(self, level: int, optname: int, value: int | ReadableBuffer) -> None:
        """Set a socket option: see setsockopt(2)."""
        self._sock.setsockopt(level, optname, value)

    @property
    def family(self) -> int:
        """The address family, as `socket.AF_INET`."""
        return self._sock.family

    @property
    def type(self) -> int:
        """The socket type, as `socket.SOCK_STREAM`."""
        return self._sock.type

    @property
    def proto(self) -> int:
        """The protocol number."""
        return self._sock.proto

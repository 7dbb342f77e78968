"""The fields of a stream socket that its system calls need.

The compiled class (native/tries.c) has the same, and with them the usual case of each call.
"""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..compiled import native

if TYPE_CHECKING:
    from .timers import Timers
    from .tls_channel import TLSChannel
    from .traffic import Traffic
    from .waiter import Waiter


class PythonStreamFields:
    """In Python."""

    __slots__ = (
        "_answered",
        "_credit",
        "_half_close_requested",
        "_input_expected",
        "_loop",
        "_peer_closed",
        "_read_waiter",
        "_received",
        "_resuming",
        "_sending",
        "_sent",
        "_sock",
        "_timers",
        "_tls",
        "_traffic",
        "_unsent",
        "_watch",
        "_write_error",
        "_writer_registered",
    )

    _sock: socket.socket
    _loop: asyncio.AbstractEventLoop
    # What `_sock` is from when the connection is encrypted.
    _tls: TLSChannel | None
    # Made when there is something that is to end a wait. What the limits say is read there.
    _timers: Timers | None
    # What this connection may do in one turn of the loop.
    _credit: int
    # Bytes that the handler got, and those that it sent itself, without its `wfile`.
    _received: int
    _sent: int
    # How many bytes had been received when something was last sent or written.
    _answered: int
    # The same for all connections of the server.
    _traffic: Traffic

    # False after a short read: the next one would only tell that it would block.
    _input_expected: bool
    _peer_closed: bool
    _read_waiter: Waiter
    # While the loop watches for input: what tells when it has stopped by itself.
    _watch: weakref.ref[Callable[[], None]] | None

    # Whether something written waits in the queue.
    _unsent: bool
    _sending: bool
    _write_error: OSError | None
    _half_close_requested: bool
    _writer_registered: bool
    # Set while a task runs inside a callback that flushes when it returns.
    _resuming: bool


StreamFields = PythonStreamFields
if native is not None and not TYPE_CHECKING:
    StreamFields = native.StreamTries

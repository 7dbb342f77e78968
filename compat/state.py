"""What the engine keeps for one server, apart from the program's own attributes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from socketserver import UDPServer
from typing import Any, Protocol

from aiosocketserver.requests.children import ChildWatch, live_servers
from aiosocketserver.requests.threads import ThreadPool
from aiosocketserver.sockets.datagram_receiver import Arrival, DatagramReceiver

from .handler_kinds import is_coroutine_handler
from .loops import LoopFactory, loop_factory_of
from .signals import SignalHandlers

# Seconds that a thread is kept without a request. Legacy programs wait until
# threading.active_count() is what it was before their clients came, and most give up
# after a few (docs/decisions/0006-reused-threads.md).
THREAD_IDLE_TIMEOUT = 0.5


class Serving(Protocol):
    """A `serve_forever` that runs, on one loop: see `compat.serving`."""

    loop: asyncio.AbstractEventLoop
    # Where that runs.
    thread: int
    signals: SignalHandlers

    def get_request(self) -> tuple[Any, Any]: ...

    def serve_coroutine(self, request: Any, client_address: Any) -> None: ...

    def serve_in_greenlet(self, request: Any, client_address: Any) -> bool: ...

    def fail(self, error: BaseException) -> None: ...

    def start_later(
        self, start: Callable[[], object], request: Any, client_address: Any, what: str
    ) -> None: ...

    def stop_threadsafe(self) -> None: ...

    def room_made(self) -> None: ...

    def try_starts(self) -> None: ...


class State:
    """What the engine keeps for one server. The server's own attributes are the program's."""

    def __init__(self) -> None:
        self.servings: set[Serving] = set()
        self.threads = ThreadPool(THREAD_IDLE_TIMEOUT)
        self.child_watches: dict[int, ChildWatch] = {}
        # What is told of the datagram that get_request() takes for a coroutine handler.
        self.arrival: Arrival | None = None
        self._receiver: DatagramReceiver | None = None
        # What get_request() raised that `_handle_request_noblock` swallows.
        self.accept_error: OSError | MemoryError | None = None
        # What a coroutine handler raised, whose request is shut down already.
        self.fatal: BaseException | None = None
        # The last RequestHandlerClass that was looked at, and what it was found to be.
        self._handler: object = None
        self._handler_is_coroutine = False
        self._loop_factory: LoopFactory | None = None
        live_servers.add(self)

    def is_coroutine_handler(self, handler: object) -> bool:
        """`handler_kinds.is_coroutine_handler`, which takes longer."""
        if handler is not self._handler:
            self._handler_is_coroutine = is_coroutine_handler(handler)
            self._handler = handler
        return self._handler_is_coroutine

    def look_at_datagram(self, server: Any) -> None:
        """Learn for a coroutine handler what socketserver's get_request() does not ask for."""
        self.arrival = None
        # As last looked at: what is wrong with a new class concerns its request.
        if not (self._handler_is_coroutine and self._handler is server.RequestHandlerClass):
            return
        sock: object = getattr(server, "socket", None)
        if not isinstance(sock, socket.socket) or sock.type != socket.SOCK_DGRAM:
            return
        max_packet_size: int = getattr(server, "max_packet_size", UDPServer.max_packet_size)
        receiver = self._receiver
        if (
            receiver is None
            or receiver.socket is not sock
            or receiver.max_packet_size != max_packet_size
        ):
            receiver = DatagramReceiver(sock, max_packet_size, sock.gettimeout())
            self._receiver = receiver
        # There is none, or something is wrong, as get_request() is about to find.
        with contextlib.suppress(OSError):
            self.arrival = receiver.peek()

    def take_arrival(self, data: object, sock: object, client_address: object) -> Arrival | None:
        """What was told of the datagram that get_request() has returned."""
        arrival, self.arrival = self.arrival, None
        if arrival is None or self._receiver is None or self._receiver.socket is not sock:
            return None
        if arrival.client_address != client_address:
            return None
        if arrival.is_cut(data, self._receiver.max_packet_size):
            self._receiver.log_truncated(arrival)
        return arrival

    def loop_factory(self, server: object) -> LoopFactory:
        """What makes the loop of each handle_request(), looked up for the first one."""
        if self._loop_factory is None:
            self._loop_factory = loop_factory_of(server)
        return self._loop_factory

    def serving_here(self) -> Serving | None:
        """The serving that runs in this thread, and has called what asks."""
        thread = threading.get_ident()
        return next((each for each in list(self.servings) if each.thread == thread), None)

    def take_accept_error(self) -> OSError | MemoryError | None:
        """What get_request() has raised since the last call."""
        error, self.accept_error = self.accept_error, None
        return error

    def fail(self, error: BaseException) -> None:
        """A coroutine handler has raised what handle_request() lets through."""
        self.fatal = error

    def stop_servings(self) -> None:
        """End `serve_forever` wherever it runs. Thread-safe."""
        for serving in list(self.servings):
            serving.stop_threadsafe()

    def room_made(self) -> None:
        """A request has ended. Thread-safe."""
        for serving in list(self.servings):
            serving.room_made()

    def try_starts(self) -> None:
        """A child has ended: another one may be started now. Thread-safe."""
        for serving in list(self.servings):
            serving.try_starts()

    def _close_in_child(self, kept: object) -> None:
        for serving in self.servings:
            serving.signals.restore()
        for watch in self.child_watches.values():
            watch.close_in_child()

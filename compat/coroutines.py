"""Coroutine handlers on compat's servers: the core serves the request, with compat's hooks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from aiosocketserver.requests import watchdog
from aiosocketserver.requests.awaiting import made_to_await
from aiosocketserver.requests.entries import InTask
from aiosocketserver.requests.failures import awaitable
from aiosocketserver.requests.handlers import BaseRequestHandler, coroutine_of
from aiosocketserver.requests.pipeline import RequestPipeline, until_ended
from aiosocketserver.servers.connections import Connections
from aiosocketserver.servers.draining import Draining
from aiosocketserver.servers.stream import TCPServer
from aiosocketserver.sockets.datagram import DatagramSocket
from aiosocketserver.sockets.time_limits import TimeLimits

from .host import Host
from .loops import new_loop, without_running_loop
from .state import THREAD_IDLE_TIMEOUT

_serving: ContextVar[CoroutineRequests | None] = ContextVar(
    "aiosocketserver_compat_requests", default=None
)


def requests_of(server: object) -> CoroutineRequests | None:
    """What serves the request of `server` that the running code belongs to, if it does."""
    found = _serving.get()
    return found if found is not None and found._server is server else None


class MixedConnections(Connections):
    """The connections of a compat server, and whatever else an overridden get_request() makes."""

    def prepared(self, entry: InTask) -> Any:
        if isinstance(entry.request, socket.socket):
            return super().prepared(entry)
        return entry.request


class CoroutineRequests(RequestPipeline):
    """What the core does with the requests of one compat server, on one loop.

    The hooks that come after process_request() are the compat server's own, plain
    functions that are called in the request's task. As legacy code they see no running
    loop, but for finish_request(), which makes the handler.
    """

    handshake_timeout = TCPServer.handshake_timeout

    _thread_idle_timeout = THREAD_IDLE_TIMEOUT
    _connections_class: type[Connections] = MixedConnections

    def __init__(
        self,
        server: Host,
        loop: asyncio.AbstractEventLoop,
        *,
        on_fatal: Callable[[BaseException], object],
        on_room: Callable[[], object],
    ) -> None:
        super().__init__(server.RequestHandlerClass, on_room=on_room, on_exit=on_fatal)
        self._server = server
        self.max_threads = getattr(server, "max_threads", None)
        self.drain_event = asyncio.Event()
        self._draining = Draining(self)
        self._connections = self._connections_class(self)
        self._stages = self._connections
        # A DatagramSocket for each socket seen in a datagram request (usually just one).
        self._datagram_sockets: dict[socket.socket, DatagramSocket] = {}
        self._loop = loop
        self._client_log.loop = loop
        self._loop_changed(loop)
        self._look_at_overrides()

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        super()._loop_changed(loop)
        limits = TimeLimits(
            handshake_timeout=self.handshake_timeout,
            write_timeout=TCPServer.write_timeout,
            on_timed_out=self._failures.on_timed_out,
        )
        linger_timeout = self._server.linger_timeout
        self._connections.attach(loop, linger_timeout, limits, on_closed=self._on_room)

    def start(self, request: Any, client_address: Any) -> None:
        """Serve a request in a task of its own."""
        self._start_request(request, client_address)  # type: ignore[unused-awaitable]

    async def serve_one(self, request: Any, client_address: Any) -> None:
        """Serve a request, and return when nothing of it is left."""
        try:
            await until_ended(self._start_or_close(request, client_address))
        finally:
            await self.end()

    def has_room(self) -> bool:
        """Whether one more request may be taken. Datagrams have no descriptor to limit them."""
        return not self._datagram_sockets or len(self._requests) < self._server.max_concurrency

    async def end(self) -> None:
        """Let the handlers end, and cut them after the server's `shutdown_timeout`."""
        try:
            await self._draining.end_requests(self._server.shutdown_timeout)
        finally:
            for sock in self._datagram_sockets.values():
                sock._stop()

    def _start_request(self, request: Any, client_address: Any) -> asyncio.Task[None]:
        match request:
            case (data, socket.socket() as sock):
                # Now, and not in its task: `has_room` is asked before that begins.
                if sock not in self._datagram_sockets:
                    assert self._loop is not None
                    self._datagram_sockets[sock] = DatagramSocket(sock, self._loop)
                arrival = self._server._aiosocketserver.take_arrival(data, sock, client_address)
                request = data, self._datagram_sockets[sock]._of(arrival)
            case _:
                pass
        return super()._start_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> Any:
        """The server's, and then the handlers that it has made."""
        return self._finish(request, client_address)

    async def _finish(self, request: Any, client_address: Any) -> None:
        _serving.set(self)
        finish_request: Callable[..., Any] = self._server.finish_request
        result = finish_request(request, client_address)
        if awaitable(result):
            await coroutine_of(result)
        # finish_request() has no need to return the handler under socketserver.
        for handler in made_to_await() or ():
            if isinstance(handler, BaseRequestHandler) and not handler._awaited:
                await coroutine_of(handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The server's."""
        with without_running_loop():
            self._server.handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The server's."""
        with without_running_loop():
            self._server.shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """The server's, for a connection whose task has not begun."""
        with without_running_loop():
            self._server.close_request(request)

    # There is nothing to accept here: that is the server's own.

    def _stop_accepting(self) -> None:
        assert self._loop is not None
        watchdog.leave(self, self._loop)

    async def _drain(self) -> None:
        pass

    @property
    def _ends_idle(self) -> bool:
        return False


def serve_coroutine(server: Host, request: Any, client_address: Any) -> bool:
    """Have a coroutine handler serve the request; False if the handler is a legacy one."""
    state = server._aiosocketserver
    if not state.is_coroutine_handler(server.RequestHandlerClass):
        return False
    serving = state.serving_here()
    if serving is not None:
        serving.serve_coroutine(request, client_address)
        return True
    # handle_request(), which blocks until the request has been served.
    with new_loop(state.loop_factory(server)) as loop:
        loop.run_until_complete(_serve_one(server, request, client_address))
    return True


async def _serve_one(server: Host, request: Any, client_address: Any) -> None:
    coroutines = CoroutineRequests(
        server,
        asyncio.get_running_loop(),
        on_fatal=server._aiosocketserver.fail,
        on_room=lambda: None,
    )
    await coroutines.serve_one(request, client_address)

"""Coroutine handlers on compat's servers: the core serves the request, with compat's hooks."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiosocketserver._handler_kinds import HandlerKind, handler_kind
from aiosocketserver.connections import ConnectionServer
from aiosocketserver.datagram_socket import DatagramSocket
from aiosocketserver.handlers import BaseRequestHandler
from aiosocketserver.pipeline import awaitable, made_to_await

if TYPE_CHECKING:
    from .engine import Engine


def is_coroutine_handler(handler: object) -> bool:
    """Whether a RequestHandlerClass is for the loop and not for a blocking call.

    Raises TypeError, which says what to change, where coroutines and plain functions
    are mixed in one class.
    """
    target: Any = handler
    while isinstance(target, functools.partial):
        target = target.func
    if not isinstance(target, type):
        return False
    # Everything else that socketserver takes is fine, a class without handle() too.
    hooks = (getattr(target, name, None) for name in ("setup", "handle", "finish"))
    if not issubclass(target, BaseRequestHandler) and not any(
        inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook) for hook in hooks
    ):
        return False
    return handler_kind(handler, mix_in=True) is HandlerKind.COROUTINE


class CoroutineRequests(ConnectionServer):
    """What the core does with the requests of one compat server, on one loop.

    The hooks that come after process_request() are the compat server's own, plain
    functions that are called in the request's task.
    """

    def __init__(
        self,
        server: Engine,
        loop: asyncio.AbstractEventLoop,
        *,
        on_fatal: Callable[[BaseException], object],
        on_room: Callable[[], object],
    ) -> None:
        self._server = server
        self._on_fatal = on_fatal
        self._on_room = on_room
        super().__init__(
            server.server_address,
            server.RequestHandlerClass,
            linger_timeout=server.linger_timeout,
            shutdown_timeout=server.shutdown_timeout,
        )
        self._attach(loop)
        self._datagram_socket: DatagramSocket | None = None

    def start(self, request: Any, client_address: Any) -> None:
        """Serve a request in a task of its own."""
        self._start_request(request, client_address)  # type: ignore[unused-awaitable]

    async def serve_one(self, request: Any, client_address: Any) -> None:
        """Serve a request, and return when nothing of it is left."""
        try:
            await self._serve_one(request, client_address)
        finally:
            await self.end()

    def has_room(self) -> bool:
        """Whether one more request may be taken. Datagrams have no descriptor to limit them."""
        return self._datagram_socket is None or len(self._requests) < self._server.max_concurrency

    async def end(self) -> None:
        """Let the handlers end, and cut them after the server's `shutdown_timeout`."""
        try:
            await self._end_requests(self.shutdown_timeout)
        finally:
            if self._datagram_socket is not None:
                self._datagram_socket._stop()

    def _prepared(self, request: Any) -> Any:
        match request:
            case socket.socket():
                return super()._prepared(request)
            case (data, socket.socket() as sock):
                if self._datagram_socket is None:
                    assert self._loop is not None
                    self._datagram_socket = DatagramSocket(sock, self._loop)
                return data, self._datagram_socket
            case _:
                # Whatever an overridden get_request() has made.
                return request

    def finish_request(self, request: Any, client_address: Any) -> Any:
        """The server's, and then the handlers that it has made."""
        return self._finish(request, client_address)

    async def _finish(self, request: Any, client_address: Any) -> None:
        finish_request: Callable[..., Any] = self._server.finish_request
        result = finish_request(request, client_address)
        if awaitable(result):
            await result
        # finish_request() has no need to return the handler under socketserver.
        for handler in made_to_await() or ():
            if isinstance(handler, BaseRequestHandler) and not handler._awaited:
                await handler

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The server's."""
        self._server.handle_error(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """The server's."""
        self._server.shutdown_request(request)

    def _stop_because_of(self, error: BaseException) -> None:
        self._on_fatal(error)

    def _room_made(self) -> None:
        self._on_room()

"""Connections in tasks of their own, whoever accepts them."""

from __future__ import annotations

import asyncio
import functools
import select
import socket
from contextvars import copy_context
from typing import Any

from ._handler_kinds import HandlerKind
from ._in_progress import InTask, current
from .lingering import LingeringSockets
from .server import BaseServer
from .sockets import StreamSocket


class ConnectionServer(BaseServer):
    """What servers of stream sockets do with a connection from when it is accepted.

    Class variable, also a keyword of the constructor:

    - linger_timeout: see `TCPServer`
    """

    linger_timeout: float = 2.0

    _lingering: LingeringSockets | None = None

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lingering = LingeringSockets(loop, self.linger_timeout)

    def _start_request(self, request: Any, client_address: Any) -> asyncio.Task[None]:
        entry = InTask(request, client_address)
        # Before the task, which under an eager task factory may end at once.
        self._requests.add(entry)
        assert self._loop is not None
        entry.on_unbegun = functools.partial(self._end_unbegun, entry)
        context = copy_context()
        context.run(current.set, entry)
        entry.task = self._loop.create_task(self._serve(entry), context=context)
        # None after an eager task's beginning.
        if entry.on_unbegun is not None:
            entry.task.add_done_callback(entry.on_unbegun)
        return entry.task

    def _end_unbegun(self, entry: InTask, task: asyncio.Task[None]) -> None:
        """Let go of a connection whose task was cancelled before it had begun."""
        self._requests.ended(entry)
        self.close_request(entry.request)

    async def _serve_one(self, request: Any, client_address: Any) -> None:
        task = self._start_request(request, client_address)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            # Awaiting the task itself would pass this on as well, but a request that is
            # cancelled ends without an error, and we would go on as if nothing had been.
            task.cancel()
            await asyncio.wait([task])
            raise

    def _prepared(self, entry: InTask) -> Any:
        if self._kind is not HandlerKind.COROUTINE:
            return entry.request
        assert self._lingering is not None
        return StreamSocket(entry.request, self._lingering)

    async def _wait_closed(self) -> None:
        if self._lingering is not None:
            await self._lingering.wait_closed()

    def _abort_closing(self) -> None:
        if self._lingering is not None:
            self._lingering.abort()

    def _is_clients_fault(self, error: BaseException, request: Any) -> bool:
        if not isinstance(request, socket.socket):
            return super()._is_clients_fault(error, request)
        # A legacy handler's socket leaves no mark on its errors, so the state of the
        # connection tells: once reset, it is hung up. (getpeername() would not do: a
        # Unix socket keeps its peer.)
        if not isinstance(error, ConnectionError) or request.fileno() < 0:
            return False
        state = select.poll()
        state.register(request, 0)
        return bool(state.poll(0))

    def _close_in_child(self, kept: object) -> None:
        for entry in self._requests:
            connection = entry.request
            if isinstance(connection, StreamSocket):
                connection._close_in_child()
            elif isinstance(connection, socket.socket) and connection is not kept:
                connection.close()
        if self._lingering is not None:
            self._lingering.close_in_child()
            self._lingering = None
        super()._close_in_child(kept)

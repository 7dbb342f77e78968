"""What a request's code asks of its server: so nothing in here imports a server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

from .statistics import Statistics
from .views import RequestInProgress

P = ParamSpec("P")
R = TypeVar("R")


class Host(Protocol):
    """A server as its handlers see it, in `self.server`: see `BaseServer` and `TCPServer`."""

    server_address: Any
    RequestHandlerClass: Callable[..., Any]
    socket: socket.socket
    statistics: Statistics
    drain_event: asyncio.Event

    # Of stream servers.
    max_line_size: int
    max_block_size: int

    # Whether it is to be told of each handler that is made, to see that it is awaited.
    _checks_awaiting: bool

    @property
    def draining(self) -> bool: ...

    def shutdown(self, timeout: float | None = ...) -> Coroutine[Any, Any, Any]: ...

    def requests(self) -> list[RequestInProgress]: ...

    def run_in_thread(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...

    def run_blocking(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    def run_on_loop(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...

    def _made_to_await(self, made: Any, /) -> None: ...

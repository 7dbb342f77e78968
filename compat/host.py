"""What the code that serves requests asks of a compat server: so nothing in here imports one."""

from __future__ import annotations

from typing import Any, Protocol

from .state import State


class Host(Protocol):
    """A socketserver server with the engine, its hooks and its options: see `engine.Engine`."""

    server_address: Any
    RequestHandlerClass: Any

    # For coroutine handlers.
    linger_timeout: float
    shutdown_timeout: float | None
    max_concurrency: int

    @property
    def _aiosocketserver(self) -> State: ...

    @property
    def _BaseServer__shutdown_request(self) -> bool: ...  # noqa: N802 - socketserver's own

    def _aiosocketserver_has_room(self) -> bool: ...

    # socketserver's hooks, and what takes one request through all of them.

    def fileno(self) -> int: ...

    def get_request(self) -> tuple[Any, Any]: ...

    def service_actions(self) -> None: ...

    def finish_request(self, request: Any, client_address: Any) -> None: ...

    def shutdown_request(self, request: Any) -> None: ...

    def close_request(self, request: Any) -> None: ...

    def handle_error(self, request: Any, client_address: Any) -> None: ...

    def _handle_request_noblock(self) -> None: ...

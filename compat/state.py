"""What the engine keeps for one server, apart from the program's own attributes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from aiosocketserver.children import ChildWatch, live_servers
from aiosocketserver.threads import ThreadPool

from .coroutines import is_coroutine_handler

if TYPE_CHECKING:
    from .serving import Serving


class State:
    """What the engine keeps for one server. The server's own attributes are the program's."""

    def __init__(self) -> None:
        self.servings: set[Serving] = set()
        self.threads = ThreadPool()
        self.child_watches: dict[int, ChildWatch] = {}
        # What get_request() raised that `_handle_request_noblock` swallows.
        self.accept_error: OSError | None = None
        # What a coroutine handler raised, whose request is shut down already.
        self.fatal: BaseException | None = None
        # The last RequestHandlerClass that was looked at, and what it was found to be.
        self._handler: object = None
        self._handler_is_coroutine = False
        live_servers.add(self)

    def is_coroutine_handler(self, handler: object) -> bool:
        """`coroutines.is_coroutine_handler`, which takes longer."""
        if handler is not self._handler:
            self._handler_is_coroutine = is_coroutine_handler(handler)
            self._handler = handler
        return self._handler_is_coroutine

    def serving_here(self) -> Serving | None:
        """The serving that runs in this thread, and has called what asks."""
        thread = threading.get_ident()
        return next((each for each in list(self.servings) if each.thread == thread), None)

    def take_accept_error(self) -> OSError | None:
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

    def _close_in_child(self, kept: object) -> None:
        for watch in self.child_watches.values():
            watch.close_in_child()

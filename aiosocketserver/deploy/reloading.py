"""SIGHUP: what asks a service to reload."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

logger = logging.getLogger("aiosocketserver.deploy")


class ReloadSignal:
    """What SIGHUP does from before the target is loaded until `close`. On the main thread.

    By default it would end the process. Before `attach` it is remembered.
    """

    # Forked children do without, as without the loop's own handlers.
    of_loop = True

    def __init__(self) -> None:
        self._asked = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_reload: Callable[[], object] | None = None
        self._before = signal.signal(signal.SIGHUP, self._handle)

    def attach(self, on_reload: Callable[[], object]) -> None:
        """Have it call `on_reload` on the running loop, soon if it has come already."""
        self._loop = asyncio.get_running_loop()
        self._on_reload = on_reload
        if self._asked:
            self._loop.call_soon(on_reload)

    def detach(self) -> None:
        """Leave the loop alone, which is about to end."""
        self._loop = None

    def close(self) -> None:
        """Put back what was before."""
        signal.signal(signal.SIGHUP, self._before)

    def _handle(self, number: int, frame: object) -> None:
        self._asked = True
        if self._loop is not None and self._on_reload is not None:
            self._loop.call_soon_threadsafe(self._on_reload)


def tell_too_late() -> None:
    """Log that a reload will not happen."""
    logger.warning("a reload was asked for while the service ends: nothing is reloaded")

"""The accept loop: batches, pauses, and what each error of accept(2) means."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextvars import copy_context

from ..requests.back_off import BackOff, is_shortage

logger = logging.getLogger("aiosocketserver")

# Connections taken for one wake-up before others on the loop have their turn.
ACCEPT_BATCH = 100


def is_listening(sock: socket.socket) -> bool:
    """Whether accept(2) can ever succeed on `sock`."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0
    except OSError as error:
        # Not every system tells; a closed socket certainly does not listen.
        return error.errno != errno.EBADF


def _nothing() -> None:
    """Nobody has to know."""


class Listener:
    """Takes requests from one descriptor, when the loop finds it readable.

    These are the connections of a listening socket; in compat whatever a server takes.

    `take()` takes one request and has it served; it raises BlockingIOError when there is none,
    another OSError or a MemoryError when it could not be taken or served now. While `may_take()`
    is False there is no room for another one: nothing is taken, and the kernel's backlog holds
    the rest, until `resume` is called. `would_fail_again(error)` says whether the next
    `take` would raise it as well, which begins a pause. `ends_server(error)` gets anything else
    that was raised: it ends the server, and returns True, if the error asks for that. Raised in a
    callback, it would end the loop.
    `on_batch` is called whenever the loop has found something, `on_pause` at each pause,
    whatever its reason; `watch` is used in the place of the loop's `add_reader`. All methods run
    on the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        *,
        take: Callable[[], object],
        may_take: Callable[[], bool],
        would_fail_again: Callable[[OSError | MemoryError], bool],
        ends_server: Callable[[BaseException], bool],
        on_batch: Callable[[], object] = _nothing,
        on_pause: Callable[[], object] = _nothing,
        watch: Callable[[int, Callable[[], None]], object] | None = None,
        batch: int = ACCEPT_BATCH,
    ) -> None:
        self._loop = loop
        # Needed to take it off the loop when somebody has closed the socket itself.
        self._descriptor = descriptor
        self._take = take
        self._may_take = may_take
        self._would_fail_again = would_fail_again
        self._ends_server = ends_server
        self._on_batch = on_batch
        self._on_pause = on_pause
        self._watch = watch or loop.add_reader
        self._batch = batch
        # The context of the code that started the server. resume() is often called from the
        # context of a request that ends; the tasks of new connections must not inherit the
        # variables of that request.
        self._context = copy_context()
        self._registered = False
        self._stopped = False
        self._suspended = False
        self._back_off = BackOff(loop, self.resume)
        # While the backlog is being drained: how many it can still hold.
        self._remaining = 0
        self._drained: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Accept from now on, or again after `suspend`; nothing while or after it drains."""
        if self._stopped or self._drained is not None:
            return
        self._suspended = False
        self._context.run(self._watch, self._descriptor, self._take_batch)
        self._registered = True

    def resume(self) -> None:
        """Go on after a pause, if there is room again."""
        held = self._stopped or self._suspended or self._back_off.lasts
        if self._registered or held or not self._may_take():
            return
        if self._drained is None:
            self.start()
        else:
            self._context.run(self._loop.call_soon, self._take_batch)

    def suspend(self) -> None:
        """Accept nothing until `start` or `drain`; a drain goes on to its end."""
        if self._drained is None:
            self._suspended = True
            self._pause()

    async def drain(self, backlog: int) -> None:
        """Take the connections that wait in the kernel for a `backlog` of that size, then stop.

        Waits while the server has no room for them, so it needs a deadline. Of several
        at once, the shortest deadline ends all.
        """
        if self._stopped:
            return
        if self._drained is None:
            self._pause()
            self._suspended = False
            # Linux queues one more than listen(2) was told.
            self._remaining = backlog + 1
            self._drained = self._loop.create_future()
            if not self._back_off.lasts:
                # A copy: a task that starts eagerly in one batch may drain the rest.
                self._context.copy().run(self._take_batch)
        try:
            await asyncio.shield(self._drained)
        finally:
            self.stop()

    def stop(self) -> None:
        """Accept nothing more."""
        self._stopped = True
        self._pause()
        self._back_off.stop()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _pause(self) -> None:
        if self._registered:
            self._loop.remove_reader(self._descriptor)
            self._registered = False

    def _back_off_now(self) -> None:
        self._pause()
        self._back_off.start()
        self._on_pause()

    def _take_batch(self) -> None:
        self._on_batch()
        for _ in range(self._batch if self._drained is None else self._remaining):
            # The previous request may have done it, if its task started eagerly.
            if self._stopped or self._suspended:
                return
            if not self._may_take():
                self._pause()
                self._on_pause()
                return
            try:
                self._take()
            except BlockingIOError:
                self._back_off.emptied()
                break
            except (OSError, MemoryError) as error:
                if self._would_fail_again(error):
                    ends = self._drained is not None or self._stopped
                    if ends and not is_shortage(error):
                        # The clients that waited were refused when the server was closed, by
                        # get_request() itself, for example.
                        break
                    self._back_off.log(error)
                    self._back_off_now()
                    return
                # A connection that was gone before it was taken (ECONNABORTED, EPROTO,
                # see accept(2)), a firewall's EPERM, or a failed handshake in somebody's
                # get_request: as in socketserver, it concerns nobody else.
                logger.debug("a connection could not be accepted: %s", error)
            except BaseException as error:
                if self._ends_server(error):
                    break
                logger.exception("get_request() failed")
                self._back_off_now()
                return
            else:
                self._remaining -= 1
                self._back_off.accepted()
        if self._drained is not None:
            self.stop()

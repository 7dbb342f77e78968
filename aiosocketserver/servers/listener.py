"""The accept loop: batches, pauses, and what each error of accept(2) means."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

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


class Listener:
    """Accepts the connections of one listening socket on the loop.

    `get_request` returns one connection and its address, or raises BlockingIOError when
    there is none; `on_request` is called with them, and raises MemoryError when it had to
    close the connection for want of memory. While `may_accept()` is False the server has no
    room for another one: accepting pauses, and the kernel's backlog holds the rest, until
    `resume` is called. `ends_server(error)` gets any other error of `get_request`: it ends the
    server, and returns True, for SystemExit and KeyboardInterrupt, which would end the loop if a
    callback raised them.
    `on_pause` is called at each pause, whatever its reason. All methods run on the loop's
    thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        get_request: Callable[[], tuple[Any, Any]],
        may_accept: Callable[[], bool],
        on_request: Callable[[Any, Any], object],
        ends_server: Callable[[BaseException], bool],
        on_pause: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._socket = sock
        # Needed to take it off the loop when somebody has closed the socket itself.
        self._descriptor = sock.fileno()
        self._get_request = get_request
        self._may_accept = may_accept
        self._on_request = on_request
        self._ends_server = ends_server
        self._on_pause = on_pause
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
        self._context.run(self._loop.add_reader, self._descriptor, self._accept_batch)
        self._registered = True

    def resume(self) -> None:
        """Go on after a pause, if there is room again."""
        held = self._stopped or self._suspended or self._back_off.lasts
        if self._registered or held or not self._may_accept():
            return
        if self._drained is None:
            self.start()
        else:
            self._context.run(self._loop.call_soon, self._accept_batch)

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
                self._context.copy().run(self._accept_batch)
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

    def _accept_batch(self) -> None:
        if self._socket.gettimeout():
            # The program has set a time-out meanwhile: accept() would wait for that long.
            self._socket.settimeout(0)
        for _ in range(ACCEPT_BATCH if self._drained is None else self._remaining):
            # The previous request may have done it, if its task started eagerly.
            if self._stopped or self._suspended:
                return
            if not self._may_accept():
                self._pause()
                self._on_pause()
                return
            try:
                request, client_address = self._get_request()
            except BlockingIOError:
                self._back_off.emptied()
                break
            except (OSError, MemoryError) as error:
                listening = is_listening(self._socket)
                if not listening and (self._drained is not None or self._stopped):
                    # The clients that waited were refused when the server was closed, by
                    # get_request() itself, for example.
                    break
                if is_shortage(error) or not listening:
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
                try:
                    self._on_request(request, client_address)
                except MemoryError:
                    # This connection is closed; the next ones wait until there is memory.
                    self._back_off_now()
                    return
                self._back_off.accepted()
        if self._drained is not None:
            self.stop()

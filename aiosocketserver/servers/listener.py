"""What the core accepts: what each error of accept(2) means, and how the backlog is drained."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from ..requests.back_off import BackOff, is_shortage
from .accept_loop import AcceptLoop, Taken

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
        self._get_request = get_request
        self._on_request = on_request
        self._ends_server = ends_server
        # The context of the code that started the server. resume() is often called from the
        # context of a request that ends; the tasks of new connections must not inherit the
        # variables of that request.
        self._context = copy_context()
        self._stopped = False
        self._back_off = BackOff(loop, self.resume)
        self._accepting = AcceptLoop(
            loop,
            sock.fileno(),
            self._back_off,
            watch=loop.add_reader,
            on_readable=self._accept_batch,
            take=self._take,
            may_take=may_accept,
            on_pause=on_pause,
        )
        # While the backlog is being drained: how many it can still hold.
        self._remaining = 0
        self._drained: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Accept from now on, or again after `suspend`; nothing while or after it drains."""
        if not self._stopped and self._drained is None:
            self._context.run(self._accepting.start)

    def resume(self) -> None:
        """Go on after a pause, if there is room again."""
        if not self._accepting.may_resume():
            return
        if self._drained is None:
            self.start()
        else:
            self._context.run(self._loop.call_soon, self._accept_batch)

    def suspend(self) -> None:
        """Accept nothing until `start` or `drain`; a drain goes on to its end."""
        if self._drained is None:
            self._accepting.stop()

    async def drain(self, backlog: int) -> None:
        """Take the connections that wait in the kernel for a `backlog` of that size, then stop.

        Waits while the server has no room for them, so it needs a deadline. Of several
        at once, the shortest deadline ends all.
        """
        if self._stopped:
            return
        if self._drained is None:
            self._accepting.pause()
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
        self._accepting.stop()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _accept_batch(self) -> None:
        if self._socket.gettimeout():
            # The program has set a time-out meanwhile: accept() would wait for that long.
            self._socket.settimeout(0)
        limit = ACCEPT_BATCH if self._drained is None else self._remaining
        if self._accepting.take_batch(limit) and self._drained is not None:
            self.stop()

    def _take(self) -> Taken:
        try:
            request, client_address = self._get_request()
        except BlockingIOError:
            return Taken.ALL
        except (OSError, MemoryError) as error:
            listening = is_listening(self._socket)
            if not listening and (self._drained is not None or self._stopped):
                # The clients that waited were refused when the server was closed, by
                # get_request() itself, for example.
                return Taken.NO_MORE
            if is_shortage(error) or not listening:
                self._back_off.log(error)
                return Taken.NOT_NOW
            # A connection that was gone before it was taken (ECONNABORTED, EPROTO,
            # see accept(2)), a firewall's EPERM, or a failed handshake in somebody's
            # get_request: as in socketserver, it concerns nobody else.
            logger.debug("a connection could not be accepted: %s", error)
            return Taken.ONE
        except BaseException as error:
            if self._ends_server(error):
                return Taken.NO_MORE
            logger.exception("get_request() failed")
            return Taken.NOT_NOW
        self._remaining -= 1
        try:
            self._on_request(request, client_address)
        except MemoryError:
            # This connection is closed; the next ones wait until there is memory.
            return Taken.NOT_NOW
        self._back_off.accepted()
        return Taken.ONE

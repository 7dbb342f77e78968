"""Requests of a compat server in greenlets: what asks for threads gives way on the loop instead."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import socketserver
from collections.abc import Callable
from typing import Any

from aiosocketserver.greenlets.mix_in import GreenletMixIn
from aiosocketserver.requests import watchdog

from .coroutines import CoroutineRequests, _serving
from .host import Host

# For programs that cannot be edited.
GREENLETS_VARIABLE = "AIOSOCKETSERVER_GREENLETS"


def wants_greenlets(server: object) -> bool:
    """Whether a server is to have greenlets for threads: its `greenlets`, the environment.

    No datagram server is. Raises ImportError where greenlet is not installed.
    """
    # Without ThreadingMixIn, an attribute of that name is the program's own.
    if not isinstance(server, socketserver.ThreadingMixIn):
        return False
    wanted = getattr(server, "greenlets", False)
    if wanted is None:
        wanted = os.environ.get(GREENLETS_VARIABLE, "") not in ("", "0")
    if not wanted or getattr(server, "socket_type", None) == socket.SOCK_DGRAM:
        return False
    check_installed()
    return True


def check_installed() -> None:
    """Raise ImportError, which says what to install, where greenlet is not installed."""
    if importlib.util.find_spec("greenlet") is None:
        raise ImportError(
            "greenlets in the place of threads need the package greenlet: "
            "pip install aiosocketserver[greenlet]"
        )


def is_for_greenlet(request: object) -> bool:
    """Whether a greenlet can serve a request: a plain connection.

    A datagram waits for nobody, and a socket of somebody's own class, as an
    `ssl.SSLSocket`, does so in its own way.
    """
    return type(request) is socket.socket and request.type == socket.SOCK_STREAM


class GreenletRequests(GreenletMixIn, CoroutineRequests):
    """What the core does with the requests of one compat server that greenlets serve.

    All that happens in one is the server's process_request_thread().
    """

    # Its requests are connections: see `is_for_greenlet`.
    socket_type = socket.SOCK_STREAM

    def __init__(
        self,
        server: Host,
        loop: asyncio.AbstractEventLoop,
        *,
        on_fatal: Callable[[BaseException], object],
        on_room: Callable[[], object],
    ) -> None:
        super().__init__(server, loop, on_fatal=on_fatal, on_room=on_room)
        self.blocking_warning = getattr(server, "blocking_warning", GreenletMixIn.blocking_warning)
        if self.blocking_warning is not None:
            watchdog.watch(self, loop, self.blocking_warning)

    def process_request_greenlet(self, request: Any, client_address: Any) -> None:
        """The server's process_request_thread."""
        _serving.set(self)
        server: Any = self._server
        server.process_request_thread(request, client_address)

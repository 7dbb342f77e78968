"""`serving`: a server on a loop in a thread, for a program or test that has its own thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Unpack

from ..options.keywords import ServerOptions
from ..servers.socket_server import SocketServer
from .binds import Bind, SocketOptions, open_sockets
from .ending import run_to_end
from .errors import StartError
from .service import Service, loop_factory
from .settings import chosen_loop
from .targets import load_target, make_server


@contextlib.contextmanager
def serving(
    target: Any,
    bind: str = "tcp://127.0.0.1:0",
    *,
    loop: str = "auto",
    **options: Unpack[ServerOptions],
) -> Generator[Any]:
    """Serve in a background thread while the body runs; the address is its value.

    - target: a handler class, a server class or factory, the `"module:Name"` of one, or
      a server that has not begun to serve
    - bind: where, as in `run`; one address, on a port that is free by default
    - loop: "asyncio", "uvloop", or "auto" for uvloop where it is installed

    The server is ready when the body begins, and what keeps it from that is raised
    here. At the end it is shut down as `shutdown` does, and closed.
    """
    name = chosen_loop(loop)
    with contextlib.ExitStack() as stack:
        if not isinstance(target, SocketServer):
            server = _made(target, bind, options, stack)
        elif options:
            raise StartError(f"{', '.join(options)} given for a server that has been made already")
        else:
            server = target
        thread = _ServerThread(server, name)
        thread.start()
        # Before the socket's path is removed.
        stack.callback(thread.stop)
        thread.ready.result()
        yield server.server_address


def _made(
    target: Any, bind: str, options: ServerOptions, stack: contextlib.ExitStack
) -> SocketServer:
    read = Bind.parse(bind)
    if read.encrypted:
        raise StartError(f"{bind}: for an encrypted server give an ssl_context, and tcp or unix")
    opened = open_sockets([read], SocketOptions.of(options))
    for each in opened:
        stack.callback(each.close)
    if len(opened) > 1:
        places = ", ".join(str(each) for each in opened)
        raise StartError(f"{bind} has several addresses, and one is wanted: {places}")
    if isinstance(target, str):
        target = load_target(target)
    return make_server(target, opened[0], dict(options))


class _ServerThread(threading.Thread):
    """Serves until it is told to stop. `ready` is done when the server accepts, or cannot."""

    def __init__(self, server: SocketServer, loop: str) -> None:
        super().__init__(name=f"serving {server.server_address!r}")
        self.ready: Future[None] = Future()
        self._service = Service([server])
        self._loop_name = loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            run_to_end(loop_factory(self._loop_name), self._serve, None)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error
        if not self.ready.done():
            self.ready.set_exception(self._error or RuntimeError("the server has ended"))
            self._error = None

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._error = await self._service.run(self._on_ready, lambda: None)

    def _on_ready(self) -> None:
        self.ready.set_result(None)

    def stop(self) -> None:
        """Shut the server down, and wait until it is gone. Raises what has ended it before."""
        if self._loop is not None:
            # RuntimeError: it has ended by itself, and the loop is closed.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._service.stopping.set)
        self.join()
        if self._error is not None:
            raise self._error

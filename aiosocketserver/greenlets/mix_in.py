"""Legacy handlers in greenlets on the loop's thread: `GreenletMixIn`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..requests.entries import InGreenlet, InTask, current
from ..requests.failures import exit_in
from ..requests.handler_kinds import HandlerKind
from ..requests.watchdog import serving
from ..servers.connections import Connections
from ..sockets.plain_socket import is_error_of
from ..sockets.stream import StreamSocket

if TYPE_CHECKING:
    from ..servers.admission import Admission
    from ..servers.certificates import ContextSource
    from ..servers.connections import ConnectionsHost
    from ..servers.stream import TCPServer
    from .pool import GreenletPool

    _Base = TCPServer
else:
    _Base = object


P = ParamSpec("P")
R = TypeVar("R")


class GreenletConnections(Connections):
    """The connections of a server that has its legacy handlers in greenlets."""

    def __init__(
        self,
        server: ConnectionsHost,
        *,
        admission: Admission | None = None,
        tls: ContextSource | None = None,
    ) -> None:
        # It loads greenlet, and so cannot be imported above.
        from .greenlet_socket import GreenletSocket

        super().__init__(server, admission=admission, tls=tls)
        self._socket_class = GreenletSocket

    def prepared(self, entry: InTask) -> Any:
        if self._server._kind is HandlerKind.COROUTINE:
            return super().prepared(entry)
        return self._socket_class(self.watched(entry))

    async def secured(self, entry: InTask) -> Any:
        secured = await super().secured(entry)
        is_legacy = self._server._kind is not HandlerKind.COROUTINE
        return self._socket_class(secured) if is_legacy else secured

    def for_hooks(self, entry: InTask) -> Any:
        request = entry.request
        if self._server._kind is not HandlerKind.COROUTINE and isinstance(request, StreamSocket):
            return self._socket_class(request)
        return request

    def is_clients_fault(self, error: BaseException, request: Any) -> bool:
        return is_error_of(error, getattr(request, "_stream", request))

    def was_told(self, error: BaseException, request: Any) -> bool:
        return super().was_told(error, getattr(request, "_stream", request))

    def option_that_struck(self, error: BaseException, request: Any) -> str:
        # Its handler was told when it struck: `was_told`. Other time-outs are its own.
        return ""

    def is_handshakes(self, error: BaseException, request: Any) -> bool:
        return super().is_handshakes(error, getattr(request, "_stream", request))


class GreenletMixIn(_Base):
    """Mix-in class to run each legacy handler in a greenlet on the loop's own thread.

    A legacy handler is any class made for `socketserver`, unchanged. Its `request` is a
    `GreenletSocket`: where it would block, the loop goes on with the others. So ten
    thousand clients cost neither threads nor processor time for switching among them.
    Coroutine handlers run as ever. Needs greenlet: `pip install aiosocketserver[greenlet]`.

    Only the connection gives way. Whatever else blocks (`time.sleep`, a lock, a database,
    a socket of the handler's own) holds up every client, and is reported after
    `blocking_warning` seconds. `run_blocking` has it run in a thread, `run_on_loop`
    awaits a coroutine instead; in both the others go on. A lock that is held while the
    handler waits for its client, and that another handler waits for, stops the process
    for ever. All handlers share one thread, and so its `threading.local` data.

    finish_request, handle_error, shutdown_request and close_request are called in the
    greenlet, where no loop is running. A handler that is cut, at a shutdown or by
    `request_timeout`, finds an `asyncio.CancelledError` or a TimeoutError where it waits.

    For stream servers: a datagram handler has its datagram already and waits for nobody,
    so that there is nothing to give way at.

    Methods that may be overridden, beside the server's:

    - process_request_greenlet(request, client_address): all that happens in the greenlet
    """

    blocking_warning: float | None = 0.1
    """Seconds for which a handler may hold the loop before that is logged."""

    _runs_legacy = True
    _legacy_on_loop = True

    _pool: GreenletPool | None = None
    _connections_class: type[Connections] = GreenletConnections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As the server's. Raises ImportError without greenlet, TypeError for datagrams."""
        if self.socket_type != socket.SOCK_STREAM:
            raise TypeError(
                f"{type(self).__qualname__}: GreenletMixIn is for stream servers; a datagram "
                "handler never waits for its client: use ThreadingMixIn, or a coroutine handler"
            )
        try:
            import greenlet as _  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"{type(self).__qualname__} runs its handlers in greenlets, which need the "
                "package greenlet: pip install aiosocketserver[greenlet]"
            ) from error
        super().__init__(*args, **kwargs)

    def process_request(self, request: Any, client_address: Any) -> Any:
        """Have a greenlet serve the request; a coroutine handler is served by its task."""
        if self._kind is HandlerKind.COROUTINE:
            return super().process_request(request, client_address)
        stream = request._stream
        entry = InGreenlet(stream, client_address)
        stream._owner = entry
        self._requests.begun(entry)
        context = copy_context()
        context.run(current.set, entry)
        assert self._pool is not None
        entry.task = self._pool.start(self._run_in_greenlet, entry, request, context)
        return None

    def _run_in_greenlet(self, entry: InGreenlet, request: Any) -> None:
        try:
            self.process_request_greenlet(request, entry.client_address)
        except BaseException as error:  # noqa: BLE001 - logged, or raised at the end
            if isinstance(exit_in(error), KeyboardInterrupt):
                self._failures.ends_server(error)
            # As in a thread, SystemExit ends this greenlet only. The code that cut the request
            # has counted it already.
            elif not (isinstance(error, SystemExit) or entry.was_cut_by(error)):
                entry.outcome = "failed"
                self._client_log.exception(
                    "process_request_greenlet() failed", error, extra=entry.log_extra()
                )
        finally:
            self._requests.ended(entry)

    def process_request_greenlet(self, request: Any, client_address: Any) -> None:
        """Serve one request in its greenlet: finish_request, then shutdown_request.

        May be overridden.
        """
        self._serve_legacy(request, client_address)

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        # It loads greenlet, and so cannot be imported above.
        from .pool import GreenletPool

        super()._loop_changed(loop)
        self._pool = GreenletPool(loop)

    # From the handler to the loop and to threads

    def run_on_loop(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a coroutine function on the server's loop and return its result.

        From a handler in a greenlet, in a task of its own, while other handlers go on;
        from a thread as without the mix-in.
        """
        from .pool import await_in_task, current_greenlet

        this = current_greenlet()
        if this is None:
            return super().run_on_loop(function, *args, **kwargs)
        assert self._loop is not None
        return await_in_task(self._loop, this, function, *args, **kwargs)

    def run_blocking(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function in one of the server's threads, while other handlers go on."""
        return self.run_on_loop(self.run_in_thread, function, *args, **kwargs)


serving.add(GreenletMixIn._run_in_greenlet.__code__)

"""The life cycle that all servers share."""

from __future__ import annotations

import asyncio
import select
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Annotated, Any, Self, Unpack

from ..options import table as option
from ..options.keywords import ServerOptions
from ..options.of_classes import apply_options
from ..requests import watchdog
from ..requests.failures import awaitable
from ..requests.handler_kinds import handler_kind
from ..requests.pipeline import RequestPipeline, is_of_this_package, until_ended
from ..requests.request_timeout import RequestTimes
from ..requests.views import RequestInProgress, view_of
from ..sockets.readiness import is_ready, until_readable
from ..sockets.server_timeout import put_back, set_while_read
from .draining import Draining, ShutdownReport

# Told apart from None, which means no deadline.
_OWN_TIMEOUT: Any = object()


class BaseServer(RequestPipeline):
    """Base class of all servers: socketserver's hooks on an event loop.

    Methods for the caller, coroutines unless said otherwise:

    - __init__(server_address, RequestHandlerClass): not a coroutine; needs no loop
    - start_serving(): accept in the background
    - serve_forever(poll_interval=0.5): do that, and wait until the server is shut down
    - shutdown(timeout): stop accepting, let handlers end, then cut the rest
    - handle_request(): serve one request, if you do not use serve_forever()
    - server_close(): not a coroutine
    - fileno() -> int: not a coroutine
    - requests() -> list: those in progress; not a coroutine, in any thread
    - run_in_thread(function, *args): from a coroutine handler to a thread
    - run_on_loop(function, *args): from a legacy handler to the loop; blocks its thread
    - `async with server`: ends in `shutdown()` and `server_close()`

    Methods that may be overridden, on the loop's thread unless said otherwise:

    - server_bind(), server_activate(), server_close(), fileno(): plain functions
    - get_request() -> request, client_address: a plain function, which reads from the
      server's socket as socketserver's would and must not block elsewhere
    - verify_request(request, client_address): may be a coroutine
    - process_request(request, client_address): may be a coroutine
    - finish_request(request, client_address): a coroutine for coroutine handlers; a
      plain function, in the handler's thread or child, for legacy ones
    - shutdown_request(request), close_request(request): plain functions, where
      finish_request ran
    - handle_error(request, client_address): may be a coroutine, where finish_request ran
    - handle_timed_out(request, client_address, option): a plain function
    - handle_timeout(): may be a coroutine
    - service_actions(): may be a coroutine

    The order of calls is socketserver's: get_request, verify_request, process_request,
    finish_request, shutdown_request, close_request. All after get_request run in a task
    of the request's own, so that a slow one holds up nobody else.

    Options are class variables and keywords of the constructor, all with a default:
    docs/reference/options.md explains them, `aiosocketserver serve --help` lists most.

    Instance variables:

    - server_address, RequestHandlerClass, socket: as in socketserver
    - statistics: what was counted
    - drain_event: an `asyncio.Event` that is set from when a shutdown begins until the
      server serves again
    """

    timeout: Annotated[float | None, option.timeout] = None

    request_timeout: Annotated[float | None, option.request_timeout] = None

    shutdown_timeout: Annotated[float | None, option.shutdown_timeout] = 5.0
    blocking_warning: Annotated[float | None, option.blocking_warning] = None

    # Of stream servers, and of whatever else has a value for them.
    max_line_size: Annotated[int, option.max_line_size]
    max_block_size: Annotated[int, option.max_block_size]

    socket: socket.socket

    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[..., Any],
        **options: Unpack[ServerOptions],
    ) -> None:
        """Keep the arguments. May be extended.

        Raises TypeError for a handler class that cannot work here or an option that
        does not exist, and ValueError for an option's value that makes no sense.
        """
        apply_options(self, options)
        super().__init__(
            RequestHandlerClass, on_room=self._room_made, on_exit=self._stop_because_of
        )
        self.server_address = server_address
        self.drain_event = asyncio.Event()
        self._draining = Draining(self)
        self._serving = False
        self._loop_thread: int | None = None
        # Set while serve_forever() waits.
        self._ended: asyncio.Future[None] | None = None
        self._fatal: BaseException | None = None
        self._waiting_for_one = False
        self._closed = False
        # Whether get_request() is overridden, so that nothing is known of how it reads.
        self._overrides_get_request = False

    # Serving

    async def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until `shutdown` has ended. Calls `service_actions` every `poll_interval` seconds.

        No timer runs unless `service_actions` is overridden. When cancelled, it stops
        accepting, and the handlers go on until `shutdown` or the end of `async with`.
        SystemExit and KeyboardInterrupt of a coroutine handler are raised here, after
        an orderly `shutdown`. Raises RuntimeError when it is running already.
        """
        if poll_interval <= 0:
            raise ValueError(f"poll_interval must be above 0 seconds, and is {poll_interval!r}")
        if self._ended is not None:
            raise RuntimeError("serve_forever() is running already: a server has one at a time")
        await self.start_serving()
        self._ended = ended = asyncio.get_running_loop().create_future()
        if self._fatal is not None:
            ended.set_result(None)
        try:
            if getattr(self.service_actions, "__func__", None) is BaseServer.service_actions:
                await ended
            while not ended.done():
                await asyncio.wait([ended], timeout=poll_interval)
                if ended.done():
                    break
                result = self.service_actions()
                if awaitable(result):
                    await result
        finally:
            self._ended = None
            if self._serving:
                self._suspend_accepting()
        await self._raise_fatal()

    async def start_serving(self) -> None:
        """Accept in the background, and return when ready. Again, it does nothing.

        Raises RuntimeError after `server_close`, before `server_activate`, while
        `handle_request` waits, on another loop than the one it is serving on, and on a
        loop that cannot watch sockets.
        """
        loop = asyncio.get_running_loop()
        if self._serving and loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("the server is already serving on another event loop")
            self._stop_accepting()
        if self._waiting_for_one:
            raise RuntimeError("handle_request() waits for a request on the same socket")
        if not self._serving:
            self._attach(loop)
        try:
            self._start_accepting(loop)
            self._serving = True
            if self.blocking_warning is not None:
                watchdog.watch(self, loop, self.blocking_warning)
        except BaseException as error:
            self._stop_accepting()
            if isinstance(error, NotImplementedError):
                raise cannot_watch(loop) from error
            raise

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed:
            raise RuntimeError("the server was closed: make a new one to serve again")
        self._check_listening()
        if self._loop is not loop:
            self._client_log.end()
            self._loop = loop
            self._client_log.loop = loop
            self._use_threads()
            self._requests.forget_ended()
            if self.request_timeout is not None:
                times = RequestTimes(
                    loop, self.request_timeout, self._failures.on_timed_out, self._client_log
                )
                self._requests.limit_times(times)
            # One that has been waited for belongs to its loop.
            self.drain_event = asyncio.Event()
            self._loop_changed(loop)
        self.drain_event.clear()
        self._loop_thread = threading.get_ident()
        self._kind = handler_kind(self.RequestHandlerClass, mix_in=self._runs_legacy)
        self._look_at_overrides()

    async def handle_request(self) -> None:
        """Serve one request and return when it has been served.

        Waits `timeout` seconds for it (the attribute, or the socket's own time-out if
        that is shorter), then calls `handle_timeout`. With ThreadingMixIn and
        ForkingMixIn it returns when the thread or child has started. Raises
        RuntimeError while the server is serving or another call waits for a request.
        """
        if self._serving:
            raise RuntimeError("handle_request() cannot be used while the server is serving")
        if self._waiting_for_one:
            raise RuntimeError("another handle_request() waits for a request already")
        loop = asyncio.get_running_loop()
        self._attach(loop)
        limits = [t for t in (self.socket.gettimeout(), self.timeout) if t is not None]
        self._waiting_for_one = True
        scope = asyncio.timeout(min(limits, default=None))
        try:
            async with scope:
                request, client_address = await self._next_request(loop)
        except OSError:
            # Without the time-out, as in socketserver: a connection that went before it
            # was taken, or whose handshake in somebody's get_request timed out.
            if scope.expired():
                result = self.handle_timeout()
                if awaitable(result):
                    await result
            return
        finally:
            self._waiting_for_one = False
        await self._serve_one(request, client_address)
        await self._requests.wait_started()
        await self._stages.wait_closed()
        await self._raise_fatal()

    async def _next_request(self, loop: asyncio.AbstractEventLoop) -> tuple[Any, Any]:
        descriptor = self.fileno()
        timeout = set_while_read(self.socket, self._timeout_while_read())
        try:
            while True:
                # What waits already is taken even with a time-out of 0.
                if not is_ready(descriptor, select.POLLIN):
                    await until_readable(loop, descriptor)
                    # uvloop makes the descriptor non-blocking.
                    set_while_read(self.socket, self._timeout_while_read())
                try:
                    return self._next_request_if_any()
                except BlockingIOError:
                    # Another process that shares the socket was faster.
                    continue
        except NotImplementedError as error:
            raise cannot_watch(loop) from error
        finally:
            put_back(self.socket, timeout)

    # The end

    @property
    def draining(self) -> bool:
        """Whether a shutdown has begun: handlers should end as soon as they can.

        May be read in any thread. `drain_event` is the same to wait for on the loop;
        see also `StreamSocket.end_when_draining`.
        """
        return self._draining.begun

    def shutdown(self, timeout: float | None = _OWN_TIMEOUT) -> Coroutine[Any, Any, ShutdownReport]:
        """Stop accepting, wait for the handlers, cut those that remain; a coroutine.

        Connections that the kernel's backlog holds are taken first. Handlers then have
        `timeout` seconds (default: `shutdown_timeout`; None: no limit) to end before
        they are cancelled; one that goes on even so loses its connection, and is at
        last reported to the log and left alone. Returns when all is gone, with what
        became of the requests, and `serve_forever` returns with it. The listening
        socket stays open, and `serve_forever` may follow.

        Called by a handler, directly or in a task of its own, it does not wait for
        that handler. Before the server serves, and again, it does nothing. It belongs
        to the loop's thread: in a legacy handler it raises RuntimeError, and
        `server.run_on_loop(server.shutdown)` does it.
        """
        if self._serving and threading.get_ident() != self._loop_thread:
            raise RuntimeError(
                "shutdown() was called outside the loop's thread: call "
                "server.run_on_loop(server.shutdown), which is thread-safe"
            )
        return self._shutdown(self.shutdown_timeout if timeout is _OWN_TIMEOUT else timeout)

    async def _shutdown(self, timeout: float | None) -> ShutdownReport:
        report = await self._draining.end_requests(timeout)
        if self._ended is None:
            await self._raise_fatal()
        elif not self._ended.done():
            self._ended.set_result(None)
        return report

    def _stop_because_of(self, error: BaseException) -> None:
        """SystemExit or KeyboardInterrupt in a handler: serve_forever() raises it at the end."""
        if self._fatal is None:
            self._fatal = error
        self._suspend_accepting()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def _raise_fatal(self) -> None:
        # The first one, if the end brings more of them.
        error = self._fatal
        if error is not None:
            await self._draining.end_requests(self.shutdown_timeout)
            if self._fatal is error:
                self._fatal = None
                raise error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.shutdown()
        finally:
            self.server_close()

    # Hooks of the server's own socket

    def server_activate(self) -> None:
        """Called by the constructor to activate the server. May be overridden."""

    def server_close(self) -> None:
        """Stop accepting and let go of the socket; requests in progress go on.

        A `serve_forever` that waits returns. Never waits on the loop's thread:
        `shutdown` does. May be overridden.
        """
        self._stop_accepting()
        self._closed = True
        self._client_log.end()
        self._threads.end_idle()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def fileno(self) -> int:
        """The descriptor of the listening socket. May be overridden."""
        return self.socket.fileno()

    def requests(self) -> list[RequestInProgress]:
        """The requests in progress, those first that were accepted first. In any thread.

        Each is as it was at some moment of the call, for they go on meanwhile.
        """
        # sorted() copies them at once (under the GIL): they come and go on the loop's thread.
        # A request that goes on in a thread, child or greenlet is there twice for a while: the
        # entry that it goes on from has no outcome any more, comes first, and is left out.
        entries = sorted(self._requests, key=lambda entry: (entry.id, entry.outcome != ""))
        latest = {entry.id: entry for entry in entries}
        return [view_of(entry, self._stages.waits_for(entry)) for entry in latest.values()]

    # Hooks; those of a request are in the pipeline

    def get_request(self) -> tuple[Any, Any]:
        """Take one request from the socket, and the client's address. May be overridden.

        Called on the loop's thread when there is one: an overridden one, as in
        socketserver, for each request anew when the socket is readable. What it calls on
        the server's socket does not wait but raises BlockingIOError, which it lets
        through; anything else that blocks would block the loop.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define get_request()")

    def handle_timeout(self) -> Any:
        """Called when `handle_request` waited in vain. May be overridden, as a coroutine too."""

    def service_actions(self) -> Any:
        """Called every `poll_interval` seconds by `serve_forever`. May be overridden.

        May be a coroutine. An exception ends `serve_forever`.
        """

    def _look_at_overrides(self) -> None:
        super()._look_at_overrides()
        self._overrides_get_request = not is_of_this_package(self.get_request)

    # What the kinds of sockets fill in

    @property
    def _ends_idle(self) -> bool:
        return False

    def _timeout_while_read(self) -> float | None:
        """What the time-out of the server's own socket has to be while the loop reads it."""
        return 0.0

    def _next_request_if_any(self) -> tuple[Any, Any]:
        """What get_request() returns. Never waits: BlockingIOError when there is none."""
        return self.get_request()

    def _start_accepting(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept, or accept again after `_suspend_accepting`."""
        raise TypeError(f"{type(self).__qualname__} has no socket: derive it from TCPServer")

    def _suspend_accepting(self) -> None:
        """Accept nothing for now; what waits in the kernel can still be drained."""

    def _stop_accepting(self) -> None:
        """Accept nothing more."""
        self._serving = False
        if self._loop is not None:
            watchdog.leave(self, self._loop)

    async def _drain(self) -> None:
        """Take what waits to be accepted, then accept nothing more."""

    def _check_listening(self) -> None:
        """Raise RuntimeError when the socket cannot accept requests."""

    async def _serve_one(self, request: Any, client_address: Any) -> None:
        await until_ended(self._start_or_close(request, client_address))

    def _room_made(self) -> None:
        """Called when a request has ended."""

    def _max_requests(self) -> int:
        """How many requests can be in progress at once. Mix-ins have limits."""
        return sys.maxsize

    def _may_accept(self) -> bool:
        """Whether one more request can be served now."""
        return len(self._requests) < self._max_requests()

    def _close_in_child(self, kept: object) -> None:
        self._loop_thread = None
        super()._close_in_child(kept)


def cannot_watch(loop: asyncio.AbstractEventLoop) -> RuntimeError:
    """What to raise where `add_reader` is not implemented."""
    return RuntimeError(
        f"{type(loop).__qualname__} cannot watch sockets (it has no add_reader): "
        "use a selector event loop, or uvloop"
    )

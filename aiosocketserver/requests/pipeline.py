"""What happens with one request: the hooks, in socketserver's order."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, cast

from .back_off import cannot_start
from .entries import InTask, InWaiting, current
from .failures import RequestFailures, awaitable, is_closing
from .handler_kinds import HandlerKind, run_legacy
from .handlers import BaseRequestHandler, coroutine_of
from .registry import RequestsInProgress
from .starts import Starts

# What was made for an overridden finish_request() or process_request() to await.
_to_await: ContextVar[list[BaseRequestHandler | Coroutine[Any, Any, None]] | None] = ContextVar(
    "aiosocketserver_to_await", default=None
)


def made_to_await() -> list[BaseRequestHandler | Coroutine[Any, Any, None]] | None:
    """The handlers and coroutines that the running hook has created; None outside a hook.

    They are kept to check that the hook awaits each of them.
    """
    return _to_await.get()


# What is logged while a thread or child cannot be started.
_PAUSED = "accepting is paused, and goes on as soon as {} can be started"


class RequestPipeline(RequestFailures):
    """The hooks that a request goes through, each of which may be overridden.

    `BaseServer` lists them. A request has a task of its own, so that whatever a hook or
    handler of one does, waiting or raising, is no other's concern (decision 0008).
    """

    RequestHandlerClass: Callable[..., Any]
    _requests: RequestsInProgress

    # Whether a mix-in can run legacy handlers.
    _runs_legacy = False

    # Whether finish_request() or process_request() is overridden, so that the handlers
    # that they make have to be watched.
    _checks_awaiting = False
    _checks_processing = False

    # Whether a proxy may tell whose connection it is.
    _asks_proxies = False

    # Whether connections are encrypted.
    _secures = False

    # Whether get_request() is overridden, so that nothing is known of how it reads.
    _overrides_get_request = False

    # True if process_request() and finish_request() are not overridden, so that a coroutine
    # handler can be awaited directly.
    _goes_straight = False

    _kind: HandlerKind

    def _look_at_overrides(self) -> None:
        self._overrides_get_request = not _is_of_this_package(self.get_request)
        finish_request = getattr(self.finish_request, "__func__", None)
        # The mix-ins' process_request() needs no watching.
        self._checks_processing = not _is_of_this_package(self.process_request)
        self._checks_awaiting = (
            self._checks_processing or finish_request is not RequestPipeline.finish_request
        )
        self._goes_straight = self._kind is HandlerKind.COROUTINE and not self._checks_awaiting

    async def _serve(self, entry: InTask) -> None:
        """The pipeline of one request, in its own task. Raises nothing but by cancellation.

        Whatever wakes the handler goes through each coroutine that awaits it, so there
        is none here that could be spared (docs/decisions/0012-cost-of-a-request.md).
        """
        if not entry.has_begun:
            entry.begin()
        client_address = entry.client_address
        try:
            if self._asks_proxies:
                if not await self._is_clients(entry):
                    return
                client_address = entry.client_address
            request = self._prepared(entry)
            verified: object = self.verify_request(request, client_address)
            if verified is not True and not await self._is_verified(verified):
                entry.outcome = "refused"
                self.shutdown_request(request)
                return
            if self._secures:
                request = await self._secured(entry)
            if self._goes_straight:
                await coroutine_of(self.RequestHandlerClass(request, client_address, self))
                self.shutdown_request(request)
            elif self._checks_processing:
                await self._process_checked(request, client_address)
            else:
                processing = self.process_request(request, client_address)
                if awaitable(processing):
                    await coroutine_of(processing)
        except BaseException as error:
            # None while an eager task has not waited yet, which nobody can have forgotten.
            if entry.task is not None and is_closing(error, entry.task):
                raise
            await self._end_failed(error, entry.request, client_address)
        finally:
            self._requests.ended(entry)

    async def _is_verified(self, verified: object) -> object:
        """Whether what verify_request() returned lets the request in."""
        if awaitable(verified):
            verified = await cast("Awaitable[object]", verified)
            if awaitable(verified):
                # It is true, and would let everybody in.
                raise TypeError(
                    f"{type(self).__qualname__}.verify_request() returned an awaitable "
                    "that it should have awaited"
                )
        return verified

    async def _is_clients(self, entry: InTask) -> bool:
        """Learn whose request it is that a proxy passes on; whether that one may be served."""
        raise NotImplementedError

    def _prepared(self, entry: InTask) -> Any:
        """What the hooks and the handler get for what `get_request` returned.

        `entry.request` is from then on what the server itself holds the request by.
        """
        return entry.request

    async def _secured(self, entry: InTask) -> Any:
        """The request, after the TLS handshake."""
        raise NotImplementedError

    def _start_or_wait(
        self, start: Callable[[Any, Any], None], request: Any, client_address: Any, what: str
    ) -> None:
        """Call what starts a thread or child, for a request that waits while that cannot be."""
        try:
            start(request, client_address)
        except BaseException as error:
            if not cannot_start(error):
                raise
            entry = InWaiting(request, client_address)
            self._requests.begun(entry)
            context = copy_context()
            context.run(current.set, entry)
            starts = self._starts
            waiting = starts.until_started(
                functools.partial(start, request, client_address), _PAUSED.format(what)
            )
            starts.waiting += 1
            try:
                assert self._loop is not None
                entry.task = self._loop.create_task(waiting, context=context)
            except BaseException:
                starts.waiting -= 1
                waiting.close()
                self._requests.ended(entry)
                raise
            entry.task.add_done_callback(functools.partial(self._end_waiting, entry, starts))

    def _end_waiting(self, entry: InWaiting, starts: Starts, task: asyncio.Task[None]) -> None:
        """A request goes on in its thread or child, or was cut, or failed, while it waited."""
        starts.waiting -= 1
        try:
            error = None if task.cancelled() else task.exception()
            if not task.cancelled() and error is None:
                return
            if error is not None:
                entry.outcome = "failed"
                self._end_or_log(
                    error, "the request of %r could not be served", entry.client_address
                )
            elif not entry.outcome:
                entry.outcome = "cut"
            try:
                self.shutdown_request(entry.request)
            except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
                self._end_or_log(raised, "shutdown_request() failed")
        finally:
            self._requests.ended(entry)

    def _finish_legacy(self, request: Any, client_address: Any) -> None:
        """Run a legacy handler, in its thread or child."""
        self._check_finished(self.finish_request(request, client_address))

    def _check_finished(self, result: object) -> None:
        """See that nothing is left to await of what finish_request() did for a legacy handler."""
        if awaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(
                f"{type(self).__qualname__}.finish_request() returned an awaitable, which nobody "
                "awaits for a legacy handler: make it a plain function"
            )

    def _made_to_await(self, made: BaseRequestHandler | Coroutine[Any, Any, None]) -> None:
        to_await = made_to_await()
        if to_await is not None:
            to_await.append(made)

    # Hooks

    def get_request(self) -> tuple[Any, Any]:
        """Take one request from the socket, and the client's address. May be overridden.

        Called on the loop's thread when there is one: an overridden one, as in
        socketserver, for each request anew when the socket is readable. What it calls on
        the server's socket does not wait but raises BlockingIOError, which it lets
        through; anything else that blocks would block the loop.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define get_request()")

    def verify_request(self, request: Any, client_address: Any) -> bool | Awaitable[bool]:
        """Return True if the request shall be served. May be overridden, as a coroutine too."""
        return True

    def process_request(self, request: Any, client_address: Any) -> Any:
        """Serve the request, then shut it down. May be overridden, as a coroutine too.

        Returns an awaitable, or None when it is served elsewhere: ThreadingMixIn and
        ForkingMixIn override this.
        """
        processing = self._process_request(request, client_address)
        if self._checks_processing:
            self._made_to_await(processing)
        return processing

    async def _process_request(self, request: Any, client_address: Any) -> None:
        if self._checks_awaiting:
            await self._finish_checked(request, client_address)
        else:
            await coroutine_of(self.RequestHandlerClass(request, client_address, self))
        self.shutdown_request(request)

    async def _process_checked(self, request: Any, client_address: Any) -> None:
        """Call an overridden process_request(), and see that it dropped nothing unawaited.

        What is kept may be awaited later, by another task.
        """
        made: list[BaseRequestHandler | Coroutine[Any, Any, None]] = []
        token = _to_await.set(made)
        try:
            processing = self.process_request(request, client_address)
            if awaitable(processing):
                await coroutine_of(processing)
            del processing
        finally:
            _to_await.reset(token)
        unawaited = [(weakref.ref(it), type(it)) for it in made if not _was_awaited(it)]
        made.clear()
        for reference, kind in unawaited:
            if reference() is not None:
                continue
            is_handler = issubclass(kind, BaseRequestHandler)
            what = "self.finish_request" if is_handler else "super().process_request"
            raise RuntimeError(
                f"{type(self).__qualname__}.process_request() did not await the "
                f"{kind.__qualname__} that {what}() returned, so that it never ran: write "
                f"`await {what}(...)`"
            )

    async def _finish_checked(self, request: Any, client_address: Any) -> None:
        """Call an overridden finish_request(), and see that the handler was awaited."""
        made: list[BaseRequestHandler | Coroutine[Any, Any, None]] = []
        token = _to_await.set(made)
        try:
            result = self.finish_request(request, client_address)
            if awaitable(result):
                await coroutine_of(result)
        finally:
            _to_await.reset(token)
        for handler in made:
            if not _was_awaited(handler):
                raise RuntimeError(
                    f"{type(self).__qualname__}.finish_request() made a "
                    f"{type(handler).__qualname__} and did not await it, so that it never "
                    "ran: write `await self.RequestHandlerClass(...)`"
                )

    def finish_request(self, request: Any, client_address: Any) -> Any:
        """Make the handler, which serves the request; awaited for a coroutine handler.

        May be overridden, as `async def` for coroutine handlers, to give the handler
        more arguments: `await self.RequestHandlerClass(request, client_address, self,
        more)`.
        """
        if self._kind is HandlerKind.COROUTINE:
            return self.RequestHandlerClass(request, client_address, self)
        run_legacy(self.RequestHandlerClass, request, client_address, self)
        return None

    def shutdown_request(self, request: Any) -> None:
        """Called when a request has been served, to shut it down. May be overridden."""
        self.close_request(request)

    def close_request(self, request: Any) -> None:
        """Called to clean up an individual request. May be overridden."""

    def handle_timeout(self) -> Any:
        """Called when `handle_request` waited in vain. May be overridden, as a coroutine too."""

    def service_actions(self) -> Any:
        """Called every `poll_interval` seconds by `serve_forever`. May be overridden.

        May be a coroutine. An exception ends `serve_forever`.
        """


def _was_awaited(made: BaseRequestHandler | Coroutine[Any, Any, None]) -> bool:
    if isinstance(made, BaseRequestHandler):
        return made._awaited
    return inspect.getcoroutinestate(made) != inspect.CORO_CREATED


def _is_of_this_package(function: object) -> bool:
    return getattr(function, "__module__", "").partition(".")[0] == __name__.partition(".")[0]

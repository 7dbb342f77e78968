"""What happens with one request: the hooks, in socketserver's order, and their errors."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, cast

from ._handler_kinds import HandlerKind, run_legacy
from ._in_progress import InTask, RequestsInProgress, current, set_outcome
from ._plain_socket import is_error_of
from .bridge import Bridge
from .errors import TimedOut
from .handlers import BaseRequestHandler
from .statistics import Statistics

logger = logging.getLogger("aiosocketserver")

# What was made for an overridden finish_request() or process_request() to await.
_to_await: ContextVar[list[BaseRequestHandler | Coroutine[Any, Any, None]] | None] = ContextVar(
    "aiosocketserver_to_await", default=None
)


def made_to_await() -> list[BaseRequestHandler | Coroutine[Any, Any, None]] | None:
    """What was made for the hook that runs, in this context; None outside of one."""
    return _to_await.get()


def awaitable(result: object) -> bool:
    """Whether a hook has returned something to await; `inspect.isawaitable`, but quick."""
    return result is not None and hasattr(type(result), "__await__")


class RequestPipeline(Bridge):
    """The hooks that a request goes through, each of which may be overridden.

    `BaseServer` lists them. A request has a task of its own, so that whatever a hook or
    handler of one does, waiting or raising, is no other's concern (design D8).
    """

    RequestHandlerClass: Callable[..., Any]
    statistics: Statistics
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

    # Whether nothing overridden lies between verify_request() and a coroutine handler.
    _goes_straight = False

    _kind: HandlerKind

    def __init__(self) -> None:
        super().__init__()
        # Legacy handlers count in their own threads.
        self._statistics_lock = threading.Lock()

    def _look_at_overrides(self) -> None:
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
                await self.RequestHandlerClass(request, client_address, self)
                self.shutdown_request(request)
            elif self._checks_processing:
                await self._process_checked(request, client_address)
            else:
                processing = self.process_request(request, client_address)
                if awaitable(processing):
                    await processing
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - each kind is seen to there
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

    async def _end_failed(self, error: BaseException, request: Any, client_address: Any) -> None:
        try:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                # Somebody asked for it: the server, at the end, or who kept the task.
                return
            if not isinstance(error, Exception | asyncio.CancelledError):
                set_outcome("failed")
                self._stop_because_of(error)
                return
            struck = isinstance(error, TimedOut) or getattr(request, "_expired", "") != ""
            if struck and self._is_clients_fault(error, request):
                # handle_timed_out() was called when it struck.
                return
            self._count_failure(error, request)
            result = self.handle_error(request, client_address)
            if awaitable(result):
                await result
        except Exception:
            logger.exception("handle_error() failed")
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as exit_:  # noqa: BLE001 - serve_forever() raises it
            self._stop_because_of(exit_)
        finally:
            try:
                self.shutdown_request(request)
            except Exception:
                logger.exception("shutdown_request() failed")
            except BaseException as exit_:  # noqa: BLE001 - serve_forever() raises it
                self._stop_because_of(exit_)

    def _stop_because_of(self, error: BaseException) -> None:
        """SystemExit or KeyboardInterrupt in a handler: the server has to end."""
        raise NotImplementedError

    def _count_failure(self, error: BaseException, request: Any) -> None:
        with self._statistics_lock:
            if self._is_clients_fault(error, request):
                self.statistics.clients_vanished += 1
                set_outcome("vanished")
            else:
                self.statistics.handlers_failed += 1
                set_outcome("failed")

    def _is_clients_fault(self, error: BaseException, request: Any) -> bool:
        """Whether this request's own connection raised `error`."""
        return is_error_of(error, request)

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

    def _end_failed_legacy(self, error: Exception, request: Any, client_address: Any) -> None:
        """Tell the error of a legacy handler, in its thread."""
        option = self._option_that_struck(error, request)
        if option:
            self._tell_timed_out(request, client_address, option)
        else:
            self._count_failure(error, request)
            self._handle_legacy_error(request, client_address)

    def _option_that_struck(self, error: Exception, request: Any) -> str:
        """The time-out of the server that is why a legacy handler failed, or nothing."""
        return ""

    def _on_timed_out(self, entry: Any, option: str) -> None:
        """A time-out of the server has struck: called by a timer, on the loop."""
        # The timer may have been armed by somebody else who writes to this client.
        token = current.set(entry)
        try:
            self._tell_timed_out(entry.request, entry.client_address, option)
        finally:
            current.reset(token)

    def _tell_timed_out(self, request: Any, client_address: Any, option: str) -> None:
        with self._statistics_lock:
            self.statistics.timed_out[option] += 1
        set_outcome(option)
        try:
            self.handle_timed_out(request, client_address, option)
        except Exception:
            logger.exception("handle_timed_out() failed")
        except BaseException as exit_:  # noqa: BLE001 - serve_forever() raises it
            self._stop_because_of(exit_)

    def _handle_legacy_error(self, request: Any, client_address: Any) -> None:
        """Call handle_error() where there is no loop; as a coroutine it runs on the loop."""
        error = sys.exception()
        assert error is not None
        result = self.handle_error(request, client_address)
        if awaitable(result):

            async def finish() -> None:
                try:
                    raise error
                except Exception:  # noqa: BLE001 - so that sys.exception() tells it there too
                    await result

            if self._loop is None:
                # A child, which has left the loop.
                asyncio.run(finish())
            else:
                self.run_on_loop(finish)

    def _made_to_await(self, made: BaseRequestHandler | Coroutine[Any, Any, None]) -> None:
        to_await = made_to_await()
        if to_await is not None:
            to_await.append(made)

    # Hooks

    def get_request(self) -> tuple[Any, Any]:
        """Take one request from the socket, and the client's address. May be overridden.

        Called on the loop's thread when there is one. Must not block; raises
        BlockingIOError when there is none.
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
            await self.RequestHandlerClass(request, client_address, self)
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
                await processing
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
                await result
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

    def handle_error(self, request: Any, client_address: Any) -> Any:
        """Called where an exception of a request is being handled. May be overridden.

        The default logs it to the logger `aiosocketserver`: with its traceback at level
        ERROR, or in one line at level INFO when it tells only that the client's own
        connection broke or timed out. May be a coroutine. Where a legacy handler runs,
        this runs in its thread or child.
        """
        error = sys.exception()
        if error is not None and self._is_clients_fault(error, request):
            logger.info("the client %r was lost: %s", client_address, _told(error))
        else:
            logger.error("exception while serving %r", client_address, exc_info=error)

    def handle_timed_out(self, request: Any, client_address: Any, option: str) -> None:
        """Called when a time-out of the server strikes, once for a request. May be overridden.

        `option` is its name, as "idle_timeout". The connection is about to be closed.
        handle_error() is not called for the TimeoutError that the handler gets. On the
        loop's thread; for the idle and write time-outs of a legacy handler in its own.
        The default logs it at level INFO.
        """
        logger.info("the client %r was cut: its %s has passed", client_address, option)

    def handle_timeout(self) -> Any:
        """Called when `handle_request` waited in vain. May be overridden, as a coroutine too."""

    def service_actions(self) -> Any:
        """Called every `poll_interval` seconds by `serve_forever`. May be overridden.

        May be a coroutine. An exception ends `serve_forever`.
        """


def _told(error: BaseException) -> str:
    """What an error says in one line; a group, as a TaskGroup raises, what its errors say."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(dict.fromkeys(map(_told, group.exceptions)))
    return str(error)


def _was_awaited(made: BaseRequestHandler | Coroutine[Any, Any, None]) -> bool:
    if isinstance(made, BaseRequestHandler):
        return made._awaited
    return inspect.getcoroutinestate(made) != inspect.CORO_CREATED


def _is_of_this_package(function: object) -> bool:
    return getattr(function, "__module__", "").partition(".")[0] == __package__

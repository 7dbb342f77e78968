"""What happens with one request: the hooks, in socketserver's order."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Annotated, Any, ParamSpec, TypeVar, cast

from ..logs.client_log import ClientLog
from ..options import table as option
from .awaiting import check_finished, finish_checked, made_to_await, process_checked
from .back_off import cannot_start
from .bridge import ThreadCalls, call_on_loop
from .children import live_servers
from .entries import InTask, InWaiting, current
from .failures import Failures, awaitable, exit_in, is_closing, told
from .handler_kinds import HandlerKind, handler_kind, run_legacy
from .handlers import BaseRequestHandler, coroutine_of
from .registry import RequestsInProgress
from .stages import Stages
from .starts import Starts
from .statistics import Statistics
from .threads import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")

# What is logged while a thread or child cannot be started.
_PAUSED = "accepting is paused, and goes on as soon as {} can be started"


class RequestPipeline:
    """The hooks that a request goes through, each of which may be overridden.

    `BaseServer` lists them. A request has a task of its own, so that whatever a hook or
    handler of one does, waiting or raising, is no other's concern (decision 0008).
    """

    max_threads: Annotated[int | None, option.max_threads] = None

    # Seconds that a thread without a job is kept; None for what the pool does.
    _thread_idle_timeout: float | None = None

    # Whether a mix-in can run legacy handlers.
    _runs_legacy = False

    # Whether finish_request() or process_request() is overridden, so that the handlers
    # that they make have to be watched.
    _checks_awaiting = False
    _checks_processing = False

    # True if process_request() and finish_request() are not overridden, so that a coroutine
    # handler can be awaited directly.
    _goes_straight = False

    _loop: asyncio.AbstractEventLoop | None
    _stages: Stages

    def __init__(
        self,
        RequestHandlerClass: Callable[..., Any],
        *,
        on_room: Callable[[], object],
        on_exit: Callable[[BaseException], object],
    ) -> None:
        """Keep the handler class.

        - on_room: called when a request has ended, in the loop's thread
        - on_exit: called with the SystemExit or KeyboardInterrupt of a request
        """
        self._kind = handler_kind(RequestHandlerClass, mix_in=self._runs_legacy)
        self.RequestHandlerClass = RequestHandlerClass
        self.statistics = Statistics()
        self._loop = None
        self._on_room = on_room
        self._requests = RequestsInProgress(on_room, self.statistics)
        self._client_log = ClientLog()
        self._failures = Failures(self, on_exit)
        self._stages = Stages()
        self._threads = ThreadPool(self._thread_idle_timeout)
        self._use_threads()
        live_servers.add(self)

    def _use_threads(self) -> None:
        """Have the threads serve the loop that runs from now on."""
        self._starts = Starts(self._threads)
        self._calls = ThreadCalls(self._threads, self._starts)

    def _look_at_overrides(self) -> None:
        finish_request = getattr(self.finish_request, "__func__", None)
        # The mix-ins' process_request() needs no watching.
        self._checks_processing = not is_of_this_package(self.process_request)
        self._checks_awaiting = (
            self._checks_processing or finish_request is not RequestPipeline.finish_request
        )
        self._goes_straight = self._kind is HandlerKind.COROUTINE and not self._checks_awaiting

    def _start_request(self, request: Any, client_address: Any) -> asyncio.Task[None]:
        entry = InTask(request, client_address)
        # Before the task, which under an eager task factory may end at once.
        self._requests.begun(entry)
        assert self._loop is not None
        entry.on_unbegun = functools.partial(self._end_unbegun, entry)
        context = copy_context()
        context.run(current.set, entry)
        serving = self._serve(entry)
        try:
            task = self._loop.create_task(serving, context=context)
        except BaseException:
            # As a task factory may that takes no context.
            serving.close()
            self._requests.ended(entry)
            raise
        # An eager task may have ended.
        if not task.done():
            entry.task = task
            # An eager task has begun.
            if not entry.has_begun:
                task.add_done_callback(entry.on_unbegun)
        return task

    def _start_or_close(self, request: Any, client_address: Any) -> asyncio.Task[None]:
        """The task that serves a request, which is closed when there cannot be one."""
        try:
            return self._start_request(request, client_address)
        except BaseException:
            self.close_request(request)
            raise

    def _end_unbegun(self, entry: InTask, task: asyncio.Task[None]) -> None:
        """Let go of a connection whose task was cancelled before it had begun."""
        request = entry.request
        self._requests.ended(entry)
        self.close_request(request)

    async def _serve(self, entry: InTask) -> None:
        """The pipeline of one request, in its own task. Raises nothing but by cancellation.

        Whatever wakes the handler goes through each coroutine that awaits it, so there
        is none here that could be spared (docs/decisions/0012-cost-of-a-request.md).
        """
        if not entry.has_begun:
            entry.begin()
        client_address = entry.client_address
        stages = self._stages
        try:
            if stages.asks_proxies:
                if not await stages.identified(entry):
                    return
                client_address = entry.client_address
            request = stages.prepared(entry)
            verified: object = self.verify_request(request, client_address)
            if verified is not True and not await self._is_verified(verified):
                entry.outcome = "refused"
                self.shutdown_request(request)
                return
            if stages.secures:
                request = await stages.secured(entry)
            if self._goes_straight:
                await coroutine_of(self.RequestHandlerClass(request, client_address, self))
                self.shutdown_request(request)
            elif self._checks_processing:
                await process_checked(self, request, client_address)
            else:
                processing = self.process_request(request, client_address)
                if awaitable(processing):
                    await coroutine_of(processing)
        except BaseException as error:
            # None while an eager task has not waited yet, which nobody can have forgotten.
            if entry.task is not None and is_closing(error, entry.task):
                raise
            await self._failures.end_failed(error, stages.for_hooks(entry), client_address)
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
                self._failures.end_or_log(
                    error, "the request of %r could not be served", entry.client_address
                )
            elif not entry.outcome:
                entry.outcome = "cut"
            try:
                self.shutdown_request(entry.request)
            except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
                self._failures.end_or_log(raised, "shutdown_request() failed")
        finally:
            self._requests.ended(entry)

    def _serve_legacy(self, request: Any, client_address: Any) -> None:
        """Have a legacy handler serve a request, in its thread or greenlet, and tell its error."""
        try:
            self._finish_legacy(request, client_address)
        except BaseException as error:
            entry = current.get()
            # As in socketserver, an exit ends this thread's work only.
            if exit_in(error) is not None or (entry is not None and entry.was_cut_by(error)):
                raise
            self._failures.end_failed_legacy(error, request, client_address)
        finally:
            self.shutdown_request(request)

    def _finish_legacy(self, request: Any, client_address: Any) -> None:
        """Run a legacy handler, in its thread, greenlet or child."""
        check_finished(self, self.finish_request(request, client_address))

    def _made_to_await(self, made: BaseRequestHandler | Coroutine[Any, Any, None]) -> None:
        to_await = made_to_await()
        if to_await is not None:
            to_await.append(made)

    # From handlers to threads and to the loop

    async def run_in_thread(
        self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Run a blocking function in one of the server's threads and return its result.

        For coroutine handlers. The function sees the caller's context variables, and
        its exception is raised here. When the call is cancelled the function goes on,
        for a thread cannot be stopped, and its result is dropped. These threads are
        not the loop's default executor, which is small and shared with DNS look-ups.
        While no thread can be started, for want of memory or at a limit, it waits, which
        is logged once a minute.
        """
        return await self._calls.run(self.max_threads, function, *args, **kwargs)

    def run_blocking(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function from a legacy handler, where it holds up nobody.

        A handler in a thread or child of its own calls it at once, one in a greenlet has
        it called in a thread: the same handler does on every mix-in.
        """
        return function(*args, **kwargs)

    def run_on_loop(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a coroutine function on the server's loop and return its result.

        For legacy handlers: it blocks the calling thread, whose context variables the
        coroutine sees, and its exception is raised here. Thread-safe; this is also how
        a legacy handler stops its server: `self.server.run_on_loop(self.server.shutdown)`.

        Raises RuntimeError on the loop's own thread (await the coroutine there), when
        the server has not been started, and when the loop ends before the coroutine.
        """
        return call_on_loop(self._loop, function, *args, **kwargs)

    # The process and the loop that it is in

    def _loop_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called before the requests are served on another loop than before."""

    def _close_in_child(self, kept: object) -> None:
        """In a forked child: let go of the loop and of all descriptors but that of `kept`."""
        self._stages.close_in_child(kept)
        self._loop = None
        # Another thread may have had the old one's lock when this process was forked.
        self._client_log = ClientLog()
        self._requests = RequestsInProgress(self._on_room, self.statistics)

    # Hooks

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
            await finish_checked(self, request, client_address)
        else:
            await coroutine_of(self.RequestHandlerClass(request, client_address, self))
        self.shutdown_request(request)

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
        connection broke or timed out. It logs ten of a kind in a minute, and then how many
        more there were; what is raised at the same line is one kind. May be a coroutine.
        Where a legacy handler runs, this runs in its thread or child.
        """
        error = sys.exception()
        if error is not None and self._stages.is_clients_fault(error, request):
            self._client_log.log(
                ("lost", type(error)),
                logging.INFO,
                "the client %r was lost: %s",
                client_address,
                told(error),
            )
        else:
            self._client_log.exception("exception while serving %r", error, client_address)

    def handle_timed_out(self, request: Any, client_address: Any, option: str) -> None:
        """Called when a time-out of the server strikes, once for a request. May be overridden.

        `option` is its name, as "idle_timeout". The connection is about to be closed.
        handle_error() is not called for the TimeoutError that the handler gets. On the
        loop's thread; for the idle and write time-outs of a legacy handler in its own.
        The default logs it at level INFO, as `handle_error` does.
        """
        self._client_log.log(
            ("cut", option),
            logging.INFO,
            "the client %r was cut: its %s has passed",
            client_address,
            option,
        )


async def until_ended(task: asyncio.Task[None]) -> None:
    """Return when the task of a request has ended; one that is cancelled in this ends it."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        # Awaiting the task itself would pass this on as well, but a request that is
        # cancelled ends without an error, and we would go on as if nothing had been.
        task.cancel()
        await asyncio.wait([task])
        raise


def is_of_this_package(function: object) -> bool:
    """Whether a hook is ours, and nobody has overridden it."""
    return getattr(function, "__module__", "").partition(".")[0] == __name__.partition(".")[0]

"""What becomes of a request that fails: which hook is told, what is counted, that it is closed.

Whose fault an error is, its `Stages` say; the line of the log is `handle_error`'s.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from ..logs.client_log import ClientLog
from ..logs.printable import printable
from .entries import InProgress, current, set_outcome
from .stages import Stages
from .statistics import Statistics

logger = logging.getLogger("aiosocketserver")


def exit_in(error: BaseException) -> SystemExit | KeyboardInterrupt | None:
    """What asks for the end of the program in an error: itself, or the first such one in a group.

    These two classes do, as in asyncio. Others that are no Exception do not: the panic of
    an extension, a group of cancellations, a class of the program's own.
    """
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return error
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        exits = map(exit_in, group.exceptions)
        return next((exit_ for exit_ in exits if exit_ is not None), None)
    return None


def is_closing(error: BaseException, task: object) -> bool:
    """Whether `error` is Python's, which closes the forgotten coroutine of a task.

    It may not wait any more then. A GeneratorExit that is raised while the task runs is
    the handler's own.
    """
    if not isinstance(error, GeneratorExit):
        return False
    try:
        return asyncio.current_task() is not task
    except RuntimeError:
        # No loop runs.
        return True


def _was_asked_for(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether it is the cancellation that the server, or who kept the task, has asked for."""
    return _is_cancellation(error) and task is not None and task.cancelling() > 0


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(map(_is_cancellation, group.exceptions))
    return isinstance(error, asyncio.CancelledError)


def awaitable(result: object) -> bool:
    """Whether a hook has returned something to await; `inspect.isawaitable`, but quick."""
    return result is not None and hasattr(type(result), "__await__")


class FailureHost(Protocol):
    """What the failures of requests ask of their server."""

    statistics: Statistics
    _loop: asyncio.AbstractEventLoop | None
    _client_log: ClientLog
    _stages: Stages

    def handle_error(self, request: Any, client_address: Any) -> Any: ...

    def handle_timed_out(self, request: Any, client_address: Any, option: str) -> None: ...

    def shutdown_request(self, request: Any) -> None: ...

    def run_on_loop(self, function: Callable[[], Coroutine[Any, Any, None]], /) -> None: ...


class Failures:
    """The end of requests that fail: which hooks are told, and what is counted.

    An error says whose fault it is: only one that this very connection has raised is its
    client's, and no error of a request is the server's end, whatever its class, but
    SystemExit and KeyboardInterrupt (docs/decisions/0009-errors.md).
    """

    def __init__(self, server: FailureHost, on_exit: Callable[[BaseException], object]) -> None:
        self._server = server
        self._on_exit = on_exit
        # Legacy handlers count in their own threads.
        self._lock = threading.Lock()

    # In the request's task

    async def end_failed(self, error: BaseException, request: Any, client_address: Any) -> None:
        """End a request whose task failed: tell the error, and shut the request down."""
        task = asyncio.current_task()
        server = self._server
        try:
            if _was_asked_for(error, task) or self.ends_server(error):
                return
            if server._stages.was_told(error, request):
                return
            self.count(error, request)
            result = server.handle_error(request, client_address)
            if awaitable(result):
                await result
        except BaseException as raised:
            if is_closing(raised, task) or _was_asked_for(raised, task):
                raise
            self.end_or_log(raised, "handle_error() failed")
        finally:
            try:
                server.shutdown_request(request)
            except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
                self.end_or_log(raised, "shutdown_request() failed")

    def ends_server(self, error: BaseException) -> bool:
        """Have the server end if an error of a request asks for that; whether it does."""
        exit_ = exit_in(error)
        if exit_ is None:
            return False
        set_outcome("failed")
        if exit_ is not error:
            # serve_forever() raises the exit alone, and nobody else tells of its companions.
            logger.error("a handler asks for the end, in a group of errors", exc_info=error)
        self._on_exit(exit_)
        return True

    def end_or_log(self, error: BaseException, message: str, *arguments: object) -> None:
        """See to what a hook has raised that nothing can be told of any more."""
        if not self.ends_server(error):
            self._server._client_log.exception(message, error, *arguments)

    def tell_of_start(
        self, error: BaseException, entry: InProgress, message: str, *arguments: object
    ) -> None:
        """See to an error in the start of a thread or child, which serves all the same."""
        exit_ = exit_in(error)
        if exit_ is not None:
            # It is not what becomes of the request.
            self._on_exit(exit_)
        else:
            extra = entry.log_extra()
            self._server._client_log.exception(message, error, *arguments, extra=extra)

    def count(self, error: BaseException, request: Any) -> None:
        """Count a request that failed, and note what became of it."""
        statistics, stages = self._server.statistics, self._server._stages
        with self._lock:
            if stages.is_handshakes(error, request):
                statistics.handshakes_failed += 1
                set_outcome("handshake")
            elif stages.is_clients_fault(error, request):
                statistics.clients_vanished += 1
                set_outcome("vanished")
            else:
                statistics.handlers_failed += 1
                set_outcome("failed")

    def count_child(self) -> None:
        """Count a request that failed in a child."""
        with self._lock:
            self._server.statistics.handlers_failed += 1

    # Time-outs

    def on_timed_out(self, entry: Any, option: str) -> None:
        """A time-out of the server has struck: called by a timer, on the loop."""
        # The timer may have been armed by somebody else who writes to this client.
        token = current.set(entry)
        try:
            self._tell_timed_out(entry.request, entry.client_address, option)
        finally:
            current.reset(token)

    def _tell_timed_out(self, request: Any, client_address: Any, option: str) -> None:
        with self._lock:
            self._server.statistics.timed_out[option] += 1
        set_outcome(option)
        try:
            self._server.handle_timed_out(request, client_address, option)
        except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
            self.end_or_log(raised, "handle_timed_out() failed")

    # In a legacy handler's thread, child or greenlet

    def end_failed_legacy(self, error: BaseException, request: Any, client_address: Any) -> None:
        """Tell the error of a legacy handler, in its thread or greenlet."""
        if self._server._stages.was_told(error, request):
            return
        option = self._server._stages.option_that_struck(error, request)
        if option:
            self._tell_timed_out(request, client_address, option)
        else:
            self.count(error, request)
            self.tell_legacy(request, client_address)

    def tell_legacy(self, request: Any, client_address: Any) -> None:
        """Call handle_error() where there is no loop; as a coroutine it runs on the loop."""
        error = sys.exception()
        assert error is not None
        result = self._server.handle_error(request, client_address)
        if awaitable(result):

            async def finish() -> None:
                try:
                    raise error
                except BaseException:  # noqa: BLE001 - so that sys.exception() tells it there too
                    await result

            if self._server._loop is None:
                # A child, which has left the loop.
                asyncio.run(finish())
            else:
                self._server.run_on_loop(finish)


def told(error: BaseException) -> str:
    """What an error says in one line; a group, as a TaskGroup raises, what its errors say."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(dict.fromkeys(map(told, group.exceptions)))
    return printable(str(error))

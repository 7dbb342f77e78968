"""What becomes of a request that fails: who is told, what is counted, and that it is closed."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from typing import Any, cast

from ..errors import TimedOut
from ..logs.client_log import ClientLog
from ..logs.printable import printable
from ..sockets.plain_socket import is_error_of
from .bridge import Bridge
from .entries import InProgress, current, set_outcome
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


class RequestFailures(Bridge):
    """The end of requests that fail, and the hooks that are told of it.

    An error says whose fault it is: only one that this very connection has raised is its
    client's, and no error of a request is the server's end, whatever its class, but
    SystemExit and KeyboardInterrupt (docs/decisions/0009-errors.md).
    """

    statistics: Statistics

    def __init__(self) -> None:
        super().__init__()
        # Legacy handlers count in their own threads.
        self._statistics_lock = threading.Lock()
        self._client_log = ClientLog()

    # In the request's task

    async def _end_failed(self, error: BaseException, request: Any, client_address: Any) -> None:
        task = asyncio.current_task()
        try:
            if _was_asked_for(error, task) or self._ends_server(error):
                return
            struck = isinstance(error, TimedOut) or getattr(request, "_expired", "") != ""
            if struck and self._is_clients_fault(error, request):
                # handle_timed_out() was called when it struck.
                return
            self._count_failure(error, request)
            result = self.handle_error(request, client_address)
            if awaitable(result):
                await result
        except BaseException as raised:
            if is_closing(raised, task) or _was_asked_for(raised, task):
                raise
            self._end_or_log(raised, "handle_error() failed")
        finally:
            try:
                self.shutdown_request(request)
            except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
                self._end_or_log(raised, "shutdown_request() failed")

    def _ends_server(self, error: BaseException) -> bool:
        """Have the server end if an error of a request asks for that; whether it does."""
        exit_ = exit_in(error)
        if exit_ is None:
            return False
        set_outcome("failed")
        if exit_ is not error:
            # serve_forever() raises the exit alone, and nobody else tells of its companions.
            logger.error("a handler asks for the end, in a group of errors", exc_info=error)
        self._stop_because_of(exit_)
        return True

    def _end_or_log(self, error: BaseException, message: str, *arguments: object) -> None:
        """See to what a hook has raised that nothing can be told of any more."""
        if not self._ends_server(error):
            self._client_log.exception(message, error, *arguments)

    def _tell_of_start(
        self, error: BaseException, entry: InProgress, message: str, *arguments: object
    ) -> None:
        """See to an error in the start of a thread or child, which serves all the same."""
        exit_ = exit_in(error)
        if exit_ is not None:
            # It is not what becomes of the request.
            self._stop_because_of(exit_)
        else:
            self._client_log.exception(message, error, *arguments, extra=entry.log_extra())

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

    # In a legacy handler's thread, child or greenlet

    def _end_failed_legacy(self, error: BaseException, request: Any, client_address: Any) -> None:
        """Tell the error of a legacy handler, in its thread."""
        option = self._option_that_struck(error, request)
        if option:
            self._tell_timed_out(request, client_address, option)
        else:
            self._count_failure(error, request)
            self._handle_legacy_error(request, client_address)

    def _option_that_struck(self, error: BaseException, request: Any) -> str:
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
        except BaseException as raised:  # noqa: BLE001 - logged, or raised at the end
            self._end_or_log(raised, "handle_timed_out() failed")

    def _handle_legacy_error(self, request: Any, client_address: Any) -> None:
        """Call handle_error() where there is no loop; as a coroutine it runs on the loop."""
        error = sys.exception()
        assert error is not None
        result = self.handle_error(request, client_address)
        if awaitable(result):

            async def finish() -> None:
                try:
                    raise error
                except BaseException:  # noqa: BLE001 - so that sys.exception() tells it there too
                    await result

            if self._loop is None:
                # A child, which has left the loop.
                asyncio.run(finish())
            else:
                self.run_on_loop(finish)

    # Hooks

    def shutdown_request(self, request: Any) -> None:
        """Called when a request has been served, to shut it down. May be overridden."""
        raise NotImplementedError

    def handle_error(self, request: Any, client_address: Any) -> Any:
        """Called where an exception of a request is being handled. May be overridden.

        The default logs it to the logger `aiosocketserver`: with its traceback at level
        ERROR, or in one line at level INFO when it tells only that the client's own
        connection broke or timed out. It logs ten of a kind in a minute, and then how many
        more there were; what is raised at the same line is one kind. May be a coroutine.
        Where a legacy handler runs, this runs in its thread or child.
        """
        error = sys.exception()
        if error is not None and self._is_clients_fault(error, request):
            self._client_log.log(
                ("lost", type(error)),
                logging.INFO,
                "the client %r was lost: %s",
                client_address,
                _told(error),
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


def _told(error: BaseException) -> str:
    """What an error says in one line; a group, as a TaskGroup raises, what its errors say."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return "; ".join(dict.fromkeys(map(_told, group.exceptions)))
    return printable(str(error))

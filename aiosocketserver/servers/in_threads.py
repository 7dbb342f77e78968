"""Legacy handlers in reused threads: `ThreadingMixIn`."""

from __future__ import annotations

from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from ..options import table as option
from ..requests.entries import InThread, current
from ..requests.handler_kinds import HandlerKind
from ..requests.threads import name_of_new_thread

if TYPE_CHECKING:
    from .base import BaseServer

    _Base = BaseServer
else:
    _Base = object


class ThreadingMixIn(_Base):
    """Mix-in class to run each legacy handler in a thread of its own; coroutine handlers as ever.

    A legacy handler is any class made for `socketserver`, the standard library's own
    among them. Its `request` is a blocking `socket.socket` (on datagram servers `(data,
    socket)`), and finish_request, handle_error, shutdown_request and close_request are
    called in its thread.

    Threads are reused: an idle one serves the next request or ends after 10 seconds.
    The handler finds what a new thread has: a context of its own, socketserver's thread
    name, `daemon` as asked. What differs is that `threading.local` data may be there
    from an earlier request (see `reuse_threads`).

    Methods that may be overridden, beside `BaseServer`'s:

    - process_request_thread(request, client_address): all that happens in the thread
    """

    daemon_threads: Annotated[bool, option.daemon_threads] = False
    block_on_close: Annotated[bool, option.block_on_close] = True
    reuse_threads: Annotated[bool, option.reuse_threads] = True

    _runs_legacy = True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one request in its thread: finish_request, then shutdown_request.

        May be overridden.
        """
        self._serve_legacy(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> Any:
        """Have a thread serve the request; a coroutine handler is served on the loop."""
        if self._kind is HandlerKind.COROUTINE:
            return super().process_request(request, client_address)
        self._start_or_wait(self._start_thread, request, client_address, "a thread")
        return None

    def _start_thread(self, request: Any, client_address: Any) -> None:
        name = name_of_new_thread(self.process_request_thread)
        awaited = self.block_on_close and not self.daemon_threads
        entry = InThread(request, client_address, name, awaited=awaited)
        self._requests.begun(entry)
        context = copy_context()
        context.run(current.set, entry)
        try:
            job = self._threads.submit(
                partial(self._run_in_thread, entry),
                context,
                name=name,
                daemon=self.daemon_threads,
                reuse=self.reuse_threads,
            )
        except BaseException:
            # No thread took the request: unregister it here; the caller reports the error.
            entry.outcome = ""
            self._requests.ended(entry)
            raise
        if job.interrupted_by is not None:
            self._failures.tell_of_start(
                job.interrupted_by,
                entry,
                "a thread serves %r, although its start was interrupted",
                client_address,
            )

    def _run_in_thread(self, entry: InThread) -> None:
        try:
            self.process_request_thread(entry.request, entry.client_address)
        finally:
            entry.ended = True
            # By now the server may serve on another loop than when this began.
            loop = self._loop
            assert loop is not None
            try:
                loop.call_soon_threadsafe(self._requests.ended, entry, context=_EMPTY)
            except RuntimeError:
                # The loop has ended. If another one follows, it forgets the entry.
                pass

    def _max_requests(self) -> int:
        limit = super()._max_requests()
        if self._kind is HandlerKind.COROUTINE:
            return limit
        if self._starts.waiting:
            return 0
        return limit if self.max_threads is None else min(limit, self.max_threads)


# What the loop is told needs none of the request's context.
_EMPTY = Context()

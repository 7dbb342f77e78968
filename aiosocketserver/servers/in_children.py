"""Legacy handlers in forked children: `ForkingMixIn`."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

from ..options import table as option
from ..requests.children import ChildWatch, flush_standard_streams, leave_servers, reap, start_child
from ..requests.entries import InChild
from ..requests.failures import exit_in
from ..requests.handler_kinds import HandlerKind

if TYPE_CHECKING:
    from .base import BaseServer

    _Base = BaseServer
else:
    _Base = object


class ForkingMixIn(_Base):
    """Mix-in class to run each legacy handler in a child process; coroutine handlers as ever.

    A legacy handler is any class made for `socketserver`. finish_request, handle_error,
    shutdown_request and close_request are called in the child, which first lets go of
    everything that the loop installed: its wake-up descriptor, its signal handlers, the
    listening sockets and all other connections of this process. The child ends with
    exit code 0, or 1 when the handler failed, which the parent counts.

    Children are reaped one by one as they end, never with `waitpid(-1)`, which would
    take the exit codes of other people's children.

    Instance variables:

    - active_children: the process ids of the children, a set
    """

    max_children: Annotated[int, option.max_children] = 40
    block_on_close: Annotated[bool, option.block_on_close] = True

    _runs_legacy = True

    @property
    def active_children(self) -> set[int]:
        """The process ids of the children that have not been reaped."""
        return {entry.pid for entry in self._requests if isinstance(entry, InChild)}

    def collect_children(self, *, blocking: bool = False) -> None:
        """Reap the children that have ended; with `blocking`, wait for all of them.

        Nobody needs to call it while the loop runs, which reaps each child as it ends.
        """
        for entry in list(self._requests):
            if isinstance(entry, InChild):
                self._reap(entry, blocking=blocking)

    def server_close(self) -> None:
        """As without the mix-in; outside a running loop, also wait for the children.

        On the loop `shutdown` does that, if `block_on_close` says so.
        """
        super().server_close()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.collect_children(blocking=self.block_on_close)

    def process_request(self, request: Any, client_address: Any) -> Any:
        """Have a child serve the request; a coroutine handler is served on the loop."""
        if self._kind is HandlerKind.COROUTINE:
            return super().process_request(request, client_address)
        self._start_or_wait(self._start_child, request, client_address, "a child")
        return None

    def _start_child(self, request: Any, client_address: Any) -> None:
        # Or the child would write what is buffered a second time.
        flush_standard_streams()
        # Before the fork, for whatever fails after it is no reason to fork again.
        entry = InChild(client_address, 0, awaited=self.block_on_close)
        entry.pid, raised = start_child(functools.partial(self._run_child, request, client_address))
        self._requests.begun(entry)
        assert self._loop is not None
        entry.watch = ChildWatch(self._loop, entry.pid, functools.partial(self._reap, entry))
        self.close_request(request)
        if raised is not None:
            self._failures.tell_of_start(
                raised,
                entry,
                "the child %d serves %r, although os.fork() has raised an error",
                entry.pid,
                client_address,
            )

    def _run_child(self, request: Any, client_address: Any) -> int:
        """Serve one request in the child; its exit code."""
        leave_servers(self, request)
        status = 1
        try:
            try:
                self._finish_legacy(request, client_address)
                status = 0
            except BaseException as error:
                if exit_in(error) is not None:
                    raise
                status = 0 if self._stages.is_clients_fault(error, request) else 1
                self._failures.tell_legacy(request, client_address)
            finally:
                self.shutdown_request(request)
        except BaseException as error:  # noqa: BLE001 - it ends this process only
            exit_ = exit_in(error)
            if isinstance(exit_, SystemExit):
                status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
            if not isinstance(error, SystemExit):
                sys.excepthook(type(error), error, error.__traceback__)
        self._client_log.end()
        flush_standard_streams()
        return status

    def _close_in_child(self, kept: object) -> None:
        for entry in self._requests:
            if isinstance(entry, InChild) and entry.watch is not None:
                entry.watch.close_in_child()
        super()._close_in_child(kept)

    def _reap(self, entry: InChild, *, blocking: bool = False) -> None:
        status = reap(entry.pid, blocking=blocking)
        if status is None:
            return
        if entry.watch is not None:
            entry.watch.close()
            entry.watch = None
        if status:
            entry.outcome = "failed"
            self._failures.count_child()
        if os.WIFSIGNALED(status):
            self._client_log.log(
                ("killed", os.WTERMSIG(status)),
                logging.WARNING,
                "the child %d, which served %r, was killed by signal %d",
                entry.pid,
                entry.client_address,
                os.WTERMSIG(status),
                extra=entry.log_extra(),
            )
        self._requests.ended(entry)
        self._starts.try_again()

    def _max_requests(self) -> int:
        limit = super()._max_requests()
        if self._kind is HandlerKind.COROUTINE:
            return limit
        return 0 if self._starts.waiting else min(limit, self.max_children)

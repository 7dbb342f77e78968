"""Legacy handlers in forked children: `ForkingMixIn`."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from ._handler_kinds import HandlerKind
from ._in_progress import InChild
from .server import live_servers, logger

if TYPE_CHECKING:
    from .server import BaseServer

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

    Class variables, each also a keyword of the constructor:

    - max_children: 40, as in socketserver; at the limit the server stops accepting and
      the kernel's backlog holds the rest
    - block_on_close: True. With False, `shutdown` does not wait for the children

    Instance variables:

    - active_children: the process ids of the children, a set
    """

    max_children: int = 40
    block_on_close: bool = True

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
                self._reap(entry, 0 if blocking else os.WNOHANG)

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
        # Or the child would write what is buffered a second time.
        _flush_standard_streams()
        # A signal that comes before the child has left the loop would be the loop's, in
        # both processes. It waits.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if not pid:
                self._run_child(request, client_address, mask)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        entry = InChild(client_address, pid, awaited=self.block_on_close)
        self._requests.add(entry)
        self._watch(entry)
        self.close_request(request)
        return None

    def _run_child(self, request: Any, client_address: Any, mask: set[int]) -> None:
        """Serve one request in the child. Never returns."""
        status = 1
        try:
            self._leave_loop(request)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            try:
                self._finish_legacy(request, client_address)
                status = 0
            except Exception as error:  # noqa: BLE001 - handle_error() reports it
                status = 0 if self._is_clients_fault(error, request) else 1
                self._handle_legacy_error(request, client_address)
            finally:
                self.shutdown_request(request)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException as error:  # noqa: BLE001 - it ends this process only, and is reported
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            try:
                _flush_standard_streams()
            finally:
                # Whatever happens: the parent's loop must not go on in here. Out of range,
                # the status would be an error.
                os._exit(status & 0xFF)

    def _leave_loop(self, request: Any) -> None:
        """Undo in this child what the loop did to the process, without touching the loop.

        Its epoll instance and wake-up socket are shared with the parent: to remove
        something from it here would remove it there.
        """
        signal.set_wakeup_fd(-1)
        asyncio._set_running_loop(None)
        for number in signal.valid_signals():
            if _is_from_loop(signal.getsignal(number)):
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
        for server in list(live_servers):
            server._close_in_child(request if server is self else None)

    def _close_in_child(self, kept: object) -> None:
        for entry in self._requests:
            if isinstance(entry, InChild) and entry.watch is not None:
                os.close(entry.watch[0])
        super()._close_in_child(kept)

    def _watch(self, entry: InChild) -> None:
        """Reap the child when it ends."""
        loop = self._loop
        assert loop is not None
        try:
            descriptor = os.pidfd_open(entry.pid)
        except (AttributeError, OSError):
            # Another system than Linux, or no descriptor left.
            threading.Thread(
                target=self._wait_in_thread, args=(entry, loop), daemon=True, name="child watcher"
            ).start()
            return
        entry.watch = descriptor, loop
        loop.add_reader(descriptor, self._reap, entry, os.WNOHANG)

    def _wait_in_thread(self, entry: InChild, loop: asyncio.AbstractEventLoop) -> None:
        try:
            os.waitid(os.P_PID, entry.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        try:
            loop.call_soon_threadsafe(self._reap, entry, os.WNOHANG)
        except RuntimeError:
            # The loop has ended: server_close() reaps.
            pass

    def _reap(self, entry: InChild, flags: int) -> None:
        try:
            pid, status = os.waitpid(entry.pid, flags)
        except ChildProcessError:
            # Somebody else has reaped it.
            pid, status = entry.pid, 0
        if not pid:
            return
        entry.end_watch()
        if status:
            with self._statistics_lock:
                self.statistics.handlers_failed += 1
        if os.WIFSIGNALED(status):
            logger.warning(
                "the child %d, which served %r, was killed by signal %d",
                pid,
                entry.client_address,
                os.WTERMSIG(status),
            )
        self._requests.discard(entry)

    def _max_requests(self) -> int:
        limit = super()._max_requests()
        return limit if self._kind is HandlerKind.COROUTINE else min(limit, self.max_children)


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            # None, closed, or a reader that is gone: print() would have told already.
            continue


def _is_from_loop(handler: Any) -> bool:
    """Whether a signal handler is one of an event loop, or of the runner that drives it."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    owner = type(getattr(handler, "__self__", None)).__module__
    module = getattr(handler, "__module__", None) or ""
    return any(name.partition(".")[0] in ("asyncio", "uvloop") for name in (owner, module))

"""Legacy handlers in reused threads and in forked children."""

from __future__ import annotations

import functools
import os
import socketserver
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, ParamSpec, TypeVar

from aiosocketserver.requests.back_off import cannot_start
from aiosocketserver.requests.children import ChildWatch, leave_servers, reap, start_child
from aiosocketserver.requests.threads import Job, name_of_new_thread

from .coroutines import requests_of, serve_coroutine
from .engine import Engine, with_engine
from .greenlets import GreenletRequests, is_for_greenlet
from .servers import give_engine
from .state import State

P = ParamSpec("P")
R = TypeVar("R")


class RequestThreads:
    """The requests in threads that server_close() waits for, as socketserver's `_threads`.

    Unlike its list, which keeps threads that have ended until the next one is added and
    looks at each of them then, this one forgets a request when it ends.
    """

    def __init__(self) -> None:
        # A dictionary for its order.
        self._jobs: dict[Job, None] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def append(self, job: Job) -> None:
        """Keep a job until it ends, unless it is a daemon's."""
        if not job.daemon:
            self._jobs[job] = None

    def discard(self, job: Job) -> None:
        """Forget a job."""
        self._jobs.pop(job, None)

    def join(self) -> None:
        """Wait until all have ended."""
        for job in list(self._jobs):
            job.join()


def _context_of_new_thread() -> Context:
    # Python 3.14 has a choice there, which free-threaded builds make differently.
    inherits = getattr(sys.flags, "thread_inherit_context", False)
    return copy_context() if inherits else Context()


class ThreadingMixIn(socketserver.ThreadingMixIn):
    """Mix-in class to handle each request in a thread of its own; threads are reused.

    The handler finds what a new thread has: an empty context, socketserver's thread
    name, `daemon` as asked. What differs is that `threading.local` data may be there
    from an earlier request, and that an idle thread ends after half a second.

    Class variables, beside socketserver's `daemon_threads` and `block_on_close`:

    - max_threads: None, no limit, as in socketserver; at a limit the server takes no
      more requests and the kernel's backlog holds the rest
    - reuse_threads: True. With False each request gets a new thread
    - greenlets: whether connections are served in greenlets on the loop's thread, and not
      in threads; None, the default, for what the environment variable
      AIOSOCKETSERVER_GREENLETS says, and threads without one; looked at when
      `serve_forever` begins. See `GreenletMixIn`
    - blocking_warning: see there
    """

    greenlets: bool | None = None
    blocking_warning: float | None = 0.1
    max_threads: int | None = None

    # socketserver's, None or a list of threads there.
    _threads: Any
    reuse_threads: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        give_engine(cls)
        super().__init_subclass__(**options)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have a thread serve the request; a coroutine handler is served on the loop."""
        server = with_engine(self)
        if server is None:
            socketserver.ThreadingMixIn.process_request(self, request, client_address)
            return
        if serve_coroutine(server, request, client_address):
            return
        if _serve_in_greenlet(server, request, client_address):
            return
        if self.block_on_close and "_threads" not in vars(self):
            vars(self).setdefault("_threads", RequestThreads())
        state = server._aiosocketserver
        submit = functools.partial(
            state.threads.submit,
            functools.partial(self.process_request_thread, request, client_address),
            _context_of_new_thread(),
            name=name_of_new_thread(self.process_request_thread),
            daemon=bool(self.daemon_threads),
            reuse=self.reuse_threads,
            on_begin=self._threads.append,
            on_end=functools.partial(_request_ended, self, state),
        )
        start = functools.partial(_start_thread, server, submit, request, client_address)
        _start_or_wait(server, start, request, client_address, "a thread")

    def run_on_loop(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """From a handler in a greenlet: see `aiosocketserver.GreenletMixIn`.

        In a thread, where `asyncio.run` does it, a RuntimeError.
        """
        requests = requests_of(self)
        if not isinstance(requests, GreenletRequests):
            raise RuntimeError("run_on_loop() is for a handler that runs in a greenlet")
        return requests.run_on_loop(function, *args, **kwargs)

    def run_blocking(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function where it holds up nobody: from a greenlet, in a thread."""
        requests = requests_of(self)
        if not isinstance(requests, GreenletRequests):
            return function(*args, **kwargs)
        return requests.run_blocking(function, *args, **kwargs)

    def _aiosocketserver_has_room(self) -> bool:
        if self.max_threads is None:
            return True
        server = with_engine(self)
        return server is None or server._aiosocketserver.threads.busy < self.max_threads

    def server_close(self) -> None:
        """Close the server, and wait for the threads if `block_on_close` says so."""
        super().server_close()
        server = with_engine(self)
        if server is not None:
            for thread in server._aiosocketserver.threads.end_idle():
                thread.join()


def _start_or_wait(
    server: Engine, start: Callable[[], object], request: Any, client_address: Any, what: str
) -> None:
    """Call what starts a thread or child; while that cannot be, `serve_forever` tries it again."""
    try:
        start()
    except BaseException as error:
        serving = server._aiosocketserver.serving_here()
        # handle_request() fails, as socketserver's.
        if serving is None or not cannot_start(error):
            raise
        serving.start_later(start, request, client_address, what)


def _start_thread(
    server: Engine, submit: Callable[[], Job], request: Any, client_address: Any
) -> None:
    raised = submit().interrupted_by
    if raised is not None:
        _tell_of_start(server, raised, request, client_address)


def _tell_of_start(
    server: Engine, raised: BaseException, request: Any, client_address: Any
) -> None:
    """Tell of an error as socketserver does; the thread or child has begun, and serves."""
    try:
        raise raised
    except Exception:  # noqa: BLE001 - handle_error() reports it
        server.handle_error(request, client_address)
    except BaseException as error:
        serving = server._aiosocketserver.serving_here()
        if serving is None:
            raise
        # Raised here, it would have the request closed that is being served.
        serving.fail(error)


def _serve_in_greenlet(server: Engine, request: Any, client_address: Any) -> bool:
    """Have a greenlet serve the request; False if it is one for a thread."""
    serving = server._aiosocketserver.serving_here()
    # There is none in handle_request(), which has no loop that goes on when it returns.
    if serving is None or not is_for_greenlet(request):
        return False
    return serving.serve_in_greenlet(request, client_address)


def _request_ended(server: ThreadingMixIn, state: State, job: Job) -> None:
    threads = server._threads
    if isinstance(threads, RequestThreads):
        threads.discard(job)
    state.room_made()


class GreenletMixIn(ThreadingMixIn):
    """Mix-in class to handle each connection in a greenlet: as `aiosocketserver.GreenletMixIn`.

    It is a ThreadingMixIn, whose hook process_request_thread() is called in the greenlet.
    Datagrams, and connections that a program has encrypted itself, go to threads. When
    `serve_forever` ends, handlers have `shutdown_timeout` seconds before they are cut.
    """

    greenlets: bool | None = True


if hasattr(os, "fork"):

    class ForkingMixIn(socketserver.ForkingMixIn):
        """Mix-in class to handle each request in a new process.

        The child lets go of the event loop, of what that has installed in the process,
        and of the connections of coroutine handlers; all else is as in socketserver,
        `active_children`, `max_children` and `block_on_close` too. While `serve_forever`
        runs, children are reaped as they end, and at `max_children` the server takes no
        more requests. Other people's children are never reaped.
        """

        def __init_subclass__(cls, **options: Any) -> None:
            give_engine(cls)
            super().__init_subclass__(**options)

        def process_request(self, request: Any, client_address: Any) -> None:
            """Have a child serve the request; a coroutine handler is served on the loop."""
            server = with_engine(self)
            if server is None:
                socketserver.ForkingMixIn.process_request(self, request, client_address)
                return
            if serve_coroutine(server, request, client_address):
                return
            self.collect_children()
            start = functools.partial(_start_child, self, server, request, client_address)
            _start_or_wait(server, start, request, client_address, "a child")

        def collect_children(self, *, blocking: bool = False) -> None:
            """Reap the children that have ended; with `blocking`, wait for all of them."""
            server = with_engine(self)
            if server is None:
                socketserver.ForkingMixIn.collect_children(self, blocking=blocking)
                return
            for pid in list(self.active_children or ()):
                _reap(self, server._aiosocketserver, pid, blocking=blocking)

        def _aiosocketserver_has_room(self) -> bool:
            return len(self.active_children or ()) < self.max_children

    def _start_child(
        forking: ForkingMixIn, server: Engine, request: Any, client_address: Any
    ) -> None:
        pid, raised = start_child(
            functools.partial(_serve_in_child, server, request, client_address)
        )
        if forking.active_children is None:
            forking.active_children = set()
        forking.active_children.add(pid)
        state = server._aiosocketserver
        serving = state.serving_here()
        if serving is not None:
            state.child_watches[pid] = ChildWatch(
                serving.loop, pid, functools.partial(_reap, forking, state, pid)
            )
        try:
            if raised is not None:
                _tell_of_start(server, raised, request, client_address)
        finally:
            server.close_request(request)

    def _serve_in_child(server: Engine, request: Any, client_address: Any) -> int:
        leave_servers()
        status = 1
        try:
            server.finish_request(request, client_address)
            status = 0
        except Exception:  # noqa: BLE001 - handle_error() reports it
            server.handle_error(request, client_address)
        finally:
            server.shutdown_request(request)
        return status

    def _reap(server: ForkingMixIn, state: State, pid: int, *, blocking: bool = False) -> None:
        if reap(pid, blocking=blocking) is None:
            return
        watch = state.child_watches.pop(pid, None)
        if watch is not None:
            watch.close()
        if server.active_children is not None:
            server.active_children.discard(pid)
        if server.active_children is not None:
            server.active_children.discard(pid)
        state.room_made()
        state.try_starts()

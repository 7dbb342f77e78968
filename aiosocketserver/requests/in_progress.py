"""The requests that a server is serving: what `shutdown` waits for, and then cuts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..sockets.silence import asks_for_nothing
from ..sockets.stream import StreamSocket
from .children import ChildWatch
from .hosts import HostCounts
from .statistics import RequestEnd, Statistics
from .times import RequestTimes

if TYPE_CHECKING:
    from ..greenlets.pool import HandlerGreenlet

_ids = itertools.count(1)

logger = logging.getLogger("aiosocketserver")


class InProgress:
    """One request that is being served, until everything of it is over."""

    __slots__ = ("__weakref__", "begun_at", "client_address", "id", "outcome", "request")

    # Whether `shutdown` waits for it.
    awaited = True

    # Whether it is a request of its own, and does not go on with one that was in a task.
    counts = False

    # The number in log records, unique in this process.
    id: int

    # On the clock of time.monotonic(), set when it is taken in.
    begun_at: float

    # What became of it (see `RequestEnd`); nothing when it goes on in a thread or child.
    outcome: str

    def __init__(self, request: Any, client_address: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.outcome = "finished"
        # The task that it goes on from, if there is one.
        task = current.get()
        if task is None:
            self.id = next(_ids)
            self.begun_at = monotonic()
        else:
            self.id = task.id
            self.begun_at = task.begun_at
            task.outcome = ""

    def log_extra(self) -> dict[str, Any]:
        """The `extra` of a log record about it, of code that serves another one or none."""
        return {"client_address": self.client_address, "request_id": self.id}

    def cancel(self) -> None:
        """Ask it to end."""
        raise NotImplementedError

    def expire(self) -> None:
        """Make it end because its time is over."""
        self.cancel()

    def abort(self) -> None:
        """Make it end, as far as that can be done: it was asked and did not."""


class InTask(InProgress):
    """A request that a task on the loop serves."""

    __slots__ = ("on_unbegun", "task")

    counts = True

    task: asyncio.Task[None] | HandlerGreenlet | None

    def __init__(
        self, request: Any, client_address: Any, task: asyncio.Task[None] | None = None
    ) -> None:
        self.request = request
        self.client_address = client_address
        self.id = next(_ids)
        self.outcome = "finished"
        self.task = task
        # What the task calls when it ends without having begun.
        self.on_unbegun: Callable[[asyncio.Task[None]], object] | None = None

    def __repr__(self) -> str:
        return f"{self.task!r}"

    @property
    def has_begun(self) -> bool:
        """Whether the task runs, or has run."""
        return self.on_unbegun is None

    def begin(self) -> None:
        """The task runs, and sees to its end itself from now on."""
        # None under an eager task factory, whose tasks begin as they are made.
        if isinstance(self.task, asyncio.Task) and self.on_unbegun is not None:
            self.task.remove_done_callback(self.on_unbegun)
        self.on_unbegun = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel("the server is shutting down")

    def expire(self) -> None:
        # What waits for the client gets a TimeoutError; anything else can be cancelled.
        waited = isinstance(self.request, StreamSocket) and self.request._expire("request_timeout")
        if not waited and self.task is not None:
            self.task.cancel("the server's request_timeout has passed")

    def abort(self) -> None:
        # Whatever it waits for on its connection now raises; a second cancellation
        # gets it out of other waits.
        if isinstance(self.request, StreamSocket):
            self.request._abort()
        self.cancel()


class InGreenlet(InTask):
    """A request that a legacy handler serves in a greenlet, which is cancelled as a task is."""

    __slots__ = ()

    counts = False

    def __init__(self, request: StreamSocket, client_address: Any) -> None:
        InProgress.__init__(self, request, client_address)
        self.task = None
        self.on_unbegun = None

    def __repr__(self) -> str:
        return f"the greenlet of request {self.id}"

    @property
    def was_cut(self) -> bool:
        """Whether somebody has asked for its end."""
        # None before its first wait.
        return self.task is not None and bool(getattr(self.task, "is_cancelled", False))


class InWaiting(InTask):
    """A request of which a task waits until its thread or child can be started."""

    __slots__ = ()

    counts = False

    def __init__(self, request: Any, client_address: Any) -> None:
        InProgress.__init__(self, request, client_address)
        self.task = None
        self.on_unbegun = None


class InThread(InProgress):
    """A request that a legacy handler serves in a thread."""

    __slots__ = ("awaited", "ended", "input_ended", "loop_call", "name")

    def __init__(self, request: Any, client_address: Any, name: str, *, awaited: bool) -> None:
        super().__init__(request, client_address)
        self.name = name
        self.awaited = awaited
        # Set by the thread, which may find that there is no loop to tell.
        self.ended = False
        # Whether its client is not waited for any more.
        self.input_ended = False
        # What the thread waits for in `run_on_loop`.
        self.loop_call: Future[Any] | None = None

    def __repr__(self) -> str:
        return f"the thread {self.name!r}"

    def end_if_idle(self) -> None:
        """Have the thread see the end of input where it waits for a client that is idle.

        What has arrived, or does so before it looks, it can still read (Linux).
        """
        sock = self.request
        # Under TLS such an end is an attack, after which OpenSSL sends nothing but an alert.
        if self.input_ended or type(sock) is not socket.socket:
            return
        if asks_for_nothing(sock, self.begun_at):
            self.input_ended = True
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)

    def cancel(self) -> None:
        # A thread cannot be cancelled; what it waits for can be ended.
        if isinstance(self.request, socket.socket):
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
        if self.loop_call is not None:
            self.loop_call.cancel()

    def abort(self) -> None:
        # It may just have been about to wait.
        self.cancel()


class InChild(InProgress):
    """A request that a legacy handler serves in a forked child."""

    __slots__ = ("awaited", "pid", "watch")

    def __init__(self, client_address: Any, pid: int, *, awaited: bool) -> None:
        super().__init__(None, client_address)
        self.pid = pid
        self.awaited = awaited
        self.watch: ChildWatch | None = None

    def __repr__(self) -> str:
        return f"the child process {self.pid}"

    def cancel(self) -> None:
        self._signal(signal.SIGTERM)

    def abort(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Not somebody else's process: the number is ours until the child is reaped.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


# The request that the running code serves. Tasks and threads started by a handler
# inherit it, so that a `shutdown` from anywhere in it does not wait for itself.
current: ContextVar[InProgress | None] = ContextVar("aiosocketserver_request", default=None)


def set_outcome(outcome: str) -> None:
    """Tell what becomes of the request that the running code serves, if it serves one."""
    request = current.get()
    if request is not None:
        request.outcome = outcome


class RequestsInProgress(set[InProgress]):
    """The set of them. It belongs to the loop's thread.

    `on_room` is called after one has ended.
    """

    def __init__(self, on_room: Callable[[], object], statistics: Statistics) -> None:
        super().__init__()
        self._statistics = statistics
        statistics.in_progress = self
        # Whether `hosts` or `times` is set.
        self._watched = False
        # Set where the connections of each host are limited.
        self.hosts: HostCounts | None = None
        # Set where the time of each request is limited.
        self.times: RequestTimes | None = None
        # Told of each that has ended, on the loop.
        self.observers: list[Callable[[RequestEnd], object]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._on_room = on_room

    def count_hosts(self, ipv6_prefix_length: int) -> HostCounts:
        """Count the connections of each host from now on, those that are here too."""
        self._watched = True
        self.hosts = HostCounts(ipv6_prefix_length)
        for request in self:
            self.hosts.add(request.client_address)
        return self.hosts

    def limit_times(self, times: RequestTimes) -> None:
        """Limit the time of each request that begins from now on."""
        self._watched = True
        self.times = times

    def begun(self, request: InProgress) -> None:
        """Take one in."""
        self.add(request)
        if request.counts:
            request.begun_at = monotonic()
            statistics = self._statistics
            statistics.accepted += 1
            if len(self) > statistics.peak:
                statistics.peak = len(self)
        if self._watched:
            if self.hosts is not None:
                self.hosts.add(request.client_address)
            if self.times is not None:
                self.times.begun(request)

    def readdress(self, request: InProgress, client_address: Any) -> None:
        """Tell whose it really is, as a proxy says."""
        if self.hosts is not None:
            self.hosts.remove(request.client_address)
            self.hosts.add(client_address)
        request.client_address = client_address

    def ended(self, request: InProgress) -> None:
        """Take one out, and tell who waits for that."""
        try:
            self.remove(request)
        except KeyError:
            return
        statistics = self._statistics
        connection = request.request
        is_stream = isinstance(connection, StreamSocket)
        if request.outcome:
            seconds = monotonic() - request.begun_at
            statistics.handling_time += seconds
            if self.observers:
                self._tell(request, seconds)
            if is_stream:
                statistics.received_before += connection._received
                statistics.sent_before += connection._total_sent()
        if self._watched:
            if self.hosts is not None:
                self.hosts.remove(request.client_address)
            if self.times is not None:
                self.times.ended(request)
        # The contexts of the task and of the socket's waits refer to this request: break the
        # cycles, or both live until the garbage collector runs (decision 0017). A connection
        # that an overridden shutdown_request() has kept open may still tell of a time-out.
        if not is_stream or connection.fileno() < 0:
            request.request = None
        if isinstance(request, InTask):
            request.task = None
        self._on_room()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _tell(self, request: InProgress, seconds: float) -> None:
        received = sent = None
        if isinstance(request.request, StreamSocket):
            received, sent = request.request._received, request.request._total_sent()
        end = RequestEnd(
            request.client_address, request.id, seconds, request.outcome, received, sent
        )
        for observer in self.observers:
            try:
                observer(end)
            except Exception:
                logger.exception("an observer of requests failed")

    def forget_ended(self) -> None:
        """Forget the threads that ended when there was no loop any more."""
        for request in [r for r in self if isinstance(r, InThread) and r.ended]:
            self.ended(request)

    def awaited(self, exempt: Collection[InProgress]) -> list[InProgress]:
        """Those that a shutdown has to wait for."""
        return [r for r in self if r.awaited and r not in exempt]

    async def wait_started(self) -> None:
        """Return when no request waits for its thread or child to be started.

        When this is cancelled those that do are cut.
        """
        waiting = [r.task for r in self if isinstance(r, InWaiting)]
        tasks = [task for task in waiting if isinstance(task, asyncio.Task)]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise

    async def wait(self, exempt: Collection[InProgress]) -> None:
        """Return when only those in `exempt`, and those that nobody awaits, are left."""
        while self.awaited(exempt):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)

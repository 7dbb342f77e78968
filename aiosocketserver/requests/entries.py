"""One request that is being served: in a task, a greenlet, a thread or a child."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from time import monotonic
from typing import Any, Protocol, TypeGuard

from ..sockets.silence import asks_for_nothing
from ..sockets.stream import StreamSocket
from .children import ChildWatch

_ids = itertools.count(1)


class Cancellable(Protocol):
    """What runs a handler on the loop and is no task: a greenlet."""

    def cancel(self, message: str, /) -> object:
        """Have it end with CancelledError where it waits."""


def is_task(runner: object) -> TypeGuard[asyncio.Task[None]]:
    """Whether a task runs the handler."""
    return isinstance(runner, asyncio.Task)


class InProgress:
    """One request that is being served, until everything of it is over."""

    __slots__ = ("__weakref__", "begun_at", "client_address", "id", "outcome", "request")

    # Whether `shutdown` waits for it.
    awaited = True

    # Whether it counts as a request: False for one that goes on from a task, which counts.
    counts = False

    # What serves it: see `RequestInProgress`.
    kind = "task"

    # The number in log records, unique in this process.
    id: int

    # On the clock of time.monotonic(): when it was accepted, or taken from the queue of datagrams.
    begun_at: float

    # What became of it (see `RequestEnd`); "" for a task whose request goes on elsewhere.
    outcome: str

    def __init__(self, request: Any, client_address: Any) -> None:
        self.request = request
        self.client_address = client_address
        self.outcome = "finished"
        # The entry of the task that this request goes on from, if there is one.
        task = current.get()
        if task is None:
            self.id = next(_ids)
            self.begun_at = monotonic()
        else:
            self.id = task.id
            self.begun_at = task.begun_at
            task.outcome = ""

    def log_extra(self) -> dict[str, Any]:
        """The `extra` of a log record about this request, for code outside of it."""
        return {"client_address": self.client_address, "request_id": self.id}

    def waits_for(self) -> str | None:
        """What it waits for, as far as is known: see `RequestInProgress`. In any thread."""
        return None

    def was_cut_by(self, error: BaseException) -> bool:
        """Whether a handler's error is the end that was asked of it: who asked has counted it."""
        return False

    def cancel(self) -> None:
        """Ask it to end, as far as it can be asked."""

    def expire(self) -> None:
        """Make it end because its time is over."""
        self.cancel()

    def abort(self) -> None:
        """Force it to end, as far as possible: it was asked to, and did not."""


class InTask(InProgress):
    """A request that a task on the loop serves."""

    __slots__ = ("on_unbegun", "task")

    counts = True

    task: asyncio.Task[None] | Cancellable | None

    def __init__(
        self, request: Any, client_address: Any, task: asyncio.Task[None] | None = None
    ) -> None:
        self.request = request
        self.client_address = client_address
        self.id = next(_ids)
        self.begun_at = monotonic()
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

    def waits_for(self) -> str | None:
        connection = self.request
        return connection._waits_for() if isinstance(connection, StreamSocket) else None

    def begin(self) -> None:
        """Called by the task when it runs: from now on it unregisters the request itself."""
        # None under an eager task factory, whose tasks begin as they are made.
        if is_task(self.task) and self.on_unbegun is not None:
            self.task.remove_done_callback(self.on_unbegun)
        self.on_unbegun = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel("the server is shutting down")

    def expire(self) -> None:
        # A wait for the client raises TimeoutError; any other wait of the task is cancelled.
        waited = isinstance(self.request, StreamSocket) and self.request._expire("request_timeout")
        if not waited and self.task is not None:
            self.task.cancel("the server's request_timeout has passed")

    def abort(self) -> None:
        # Waits on its connection raise now; the second cancellation ends other waits.
        if isinstance(self.request, StreamSocket):
            self.request._abort()
        self.cancel()


class InGreenlet(InTask):
    """A request that a legacy handler serves in a greenlet, which is cancelled as a task is."""

    __slots__ = ()

    counts = False
    kind = "greenlet"

    def __init__(self, request: StreamSocket, client_address: Any) -> None:
        InProgress.__init__(self, request, client_address)
        self.task = None
        self.on_unbegun = None

    def __repr__(self) -> str:
        return f"the greenlet of request {self.id}"

    def was_cut_by(self, error: BaseException) -> bool:
        # The task is None until the handler waits for the first time.
        asked = self.task is not None and bool(getattr(self.task, "is_cancelled", False))
        return asked and isinstance(error, asyncio.CancelledError)


class InWaiting(InTask):
    """A request of which a task waits until its thread or child can be started."""

    __slots__ = ()

    counts = False

    def __init__(self, request: Any, client_address: Any) -> None:
        InProgress.__init__(self, request, client_address)
        self.task = None
        self.on_unbegun = None

    def waits_for(self) -> str | None:
        return "start"


class InThread(InProgress):
    """A request that a legacy handler serves in a thread."""

    __slots__ = ("awaited", "ended", "input_ended", "loop_call", "name")

    kind = "thread"

    def __init__(self, request: Any, client_address: Any, name: str, *, awaited: bool) -> None:
        super().__init__(request, client_address)
        self.name = name
        self.awaited = awaited
        # Set by the thread at its end, because there may be no loop any more to tell it to.
        self.ended = False
        # Whether the server has ended its input, since its client was idle at a shutdown.
        self.input_ended = False
        # The call that the thread waits for in `run_on_loop`.
        self.loop_call: Future[Any] | None = None

    def __repr__(self) -> str:
        return f"the thread {self.name!r}"

    def end_if_idle(self) -> None:
        """If the client is idle, have the thread see the end of input where it waits for more.

        It can still read what has arrived, or arrives before it looks (Linux).
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
        # When cancel() was called, the thread may not have begun its wait yet.
        self.cancel()


class InChild(InProgress):
    """A request that a legacy handler serves in a forked child."""

    __slots__ = ("awaited", "pid", "watch")

    kind = "child"

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
        # No other process can have this id before the child is reaped.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


# The request that the running code serves. Tasks and threads started by a handler
# inherit it, so that a `shutdown` from anywhere in it does not wait for itself.
current: ContextVar[InProgress | None] = ContextVar("aiosocketserver_request", default=None)


def set_outcome(outcome: str) -> None:
    """Set the outcome of the request that the running code serves, if it serves one."""
    request = current.get()
    if request is not None:
        request.outcome = outcome

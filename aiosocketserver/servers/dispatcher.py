"""Datagrams: many for a wake-up, a task only where a handler waits.

One task for each datagram costs more than most handlers do, and without a bound it
costs all the memory there is. Here a few workers, kept for the next datagram, run
handlers to their end or to their first wait (docs/decisions/0005-datagrams.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from ..cpython import MUST_CANCEL, references_to
from ..logs.client_log import ClientLog
from ..requests.back_off import FIRST_BACK_OFF, BackOff, is_shortage
from ..requests.entries import InTask, current
from ..requests.registry import RequestsInProgress
from ..sockets.waiter import Waiter

if TYPE_CHECKING:
    from ..requests.statistics import Statistics


# Datagrams read for one wake-up before others on the loop have their turn.
DATAGRAM_BATCH = 64

# Bytes of its buffer that the kernel takes for a datagram, at the very least.
_KERNEL_COST = 256

_IDLE_WORKERS = 64


class DatagramDispatcher:
    """Reads the datagrams of one socket and has them served.

    `get_request` returns one datagram as a request and its address, raising
    BlockingIOError when there is none. `ends_server(error)` gets anything else that it raises:
    it ends the server, and returns True, for SystemExit and KeyboardInterrupt, which would end
    the loop if a callback raised them. `before_batch` is called before several datagrams are
    read; `serve` serves one; `on_pause` is called at each pause for want of memory. At most
    `max_requests()` are in progress; then `max_queue` wait; then the newest is dropped and
    counted. `end()` drops all that wait. A `reliable` socket, whose senders wait while its
    buffer is full, is not read until there is room again. `blocking` is the mode of the
    descriptor while the server serves. All methods run on the loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        requests: RequestsInProgress,
        statistics: Statistics,
        *,
        get_request: Callable[[], tuple[Any, Any]],
        before_batch: Callable[[], object],
        ends_server: Callable[[BaseException], bool],
        serve: Callable[[InTask], Coroutine[Any, Any, None]],
        on_pause: Callable[[], object],
        max_requests: Callable[[], int],
        max_queue: int,
        reliable: bool,
        blocking: bool,
        client_log: ClientLog,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._requests = requests
        self._statistics = statistics
        self._get_request = get_request
        self._before_batch = before_batch
        self._ends_server = ends_server
        self._serve = serve
        self._on_pause = on_pause
        self._max_requests = max_requests
        self._max_queue = max_queue
        self._reliable = reliable
        self._blocking = blocking
        self._client_log = client_log
        # The context of the code that started serving, not of a request whose end makes room.
        self._context = copy_context()
        self._queue: deque[tuple[Any, Any]] = deque()
        self._idle: list[Waiter] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._dispatch_scheduled = False
        self._registered = False
        self._paused = False
        self._ended = False
        self._drained: asyncio.Future[None] | None = None
        self._back_off = BackOff(loop, self.start)
        # Whether the last datagram could not be read for want of memory.
        self._short = False

    def start(self) -> None:
        """Read from now on."""
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        # uvloop makes the descriptor non-blocking.
        os.set_blocking(self._socket.fileno(), self._blocking)
        self._registered = True

    def stop(self) -> None:
        """Stop reading. Queued datagrams are still served."""
        if self._registered:
            self._loop.remove_reader(self._socket.fileno())
            self._registered = False
        self._paused = False
        self._back_off.stop()

    async def drain(self) -> None:
        """Read what the kernel holds, stop reading, and return when the queue is empty."""
        self.stop()
        # No more than the kernel can have held: a client may be sending all the time.
        capacity = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        for _ in range(1 + capacity // _KERNEL_COST // DATAGRAM_BATCH):
            more = self._read_batch()
            self.room_made()
            if not (more or self._short):
                break
            await asyncio.sleep(FIRST_BACK_OFF if self._short else 0)
        if self._queue:
            self._drained = self._loop.create_future()
            await self._drained

    def end(self) -> None:
        """Drop what is queued, and let the idle workers end."""
        self.stop()
        self._ended = True
        self._statistics.datagrams_dropped += len(self._queue)
        self._queue.clear()
        self._tell_drained()
        if not self._loop.is_closed():
            for waiter in self._idle:
                self._loop.call_soon(waiter.resume)

    def _tell_drained(self) -> None:
        if not self._queue and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def room_made(self) -> None:
        """A request has ended: another one may take its place, on the next turn."""
        if (self._queue or self._paused) and not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._scheduled_dispatch, context=self._context)

    def _on_readable(self) -> None:
        was_short = self._short
        self._read_batch(min(DATAGRAM_BATCH, self._free()) if self._reliable else DATAGRAM_BATCH)
        if self._short:
            self.stop()
            self._back_off.start()
            self._on_pause()
        elif was_short:
            self._back_off.accepted()
            self._back_off.emptied()
        self._dispatch()
        if not self._reliable:
            while self._free() < 0:
                self._queue.pop()
                self._statistics.datagrams_dropped += 1
        elif self._free() <= 0:
            self.stop()
            self._paused = True

    def _room(self) -> int:
        return self._max_requests() - len(self._requests)

    def _free(self) -> int:
        """How many more may be queued."""
        # Datagrams for which a slot is free do not count against max_queue: a worker is about
        # to take them.
        return self._max_queue + max(0, self._room()) - len(self._queue)

    def _read_batch(self, size: int = DATAGRAM_BATCH) -> bool:
        """Queue one batch; True when there may be more."""
        self._before_batch()
        self._short = False
        before = len(self._queue)
        try:
            return self._queue_batch(size)
        finally:
            self._statistics.datagrams_received += len(self._queue) - before

    def _queue_batch(self, size: int) -> bool:
        for _ in range(size):
            try:
                self._queue.append(self._get_request())
            except BlockingIOError:
                return False
            except BaseException as error:  # noqa: BLE001 - logged, or raised at the end
                if is_shortage(error):
                    self._short = True
                    self._back_off.log(error)
                    return False
                if isinstance(error, OSError):
                    # An earlier answer caused it, by an ICMP error for example: see udp(7).
                    self._client_log.log(
                        ("unreceived", error.errno),
                        logging.DEBUG,
                        "a datagram could not be received: %s",
                        error,
                    )
                    continue
                if self._ends_server(error):
                    return False
                self._client_log.exception("get_request() failed", error)
        return True

    def _scheduled_dispatch(self) -> None:
        self._dispatch_scheduled = False
        self._dispatch()
        if self._paused and self._free() > 0:
            self._paused = False
            self.start()

    def _dispatch(self) -> None:
        """Have workers take what is queued. Loop callbacks only: it resumes them in place."""
        while self._queue and self._room() > 0:
            if self._idle:
                self._idle.pop().resume()
            else:
                self._start_worker()
                # It begins on the next turn, and takes all that is queued unless a
                # handler waits; then the one after it is needed.
                self.room_made()
                return

    def _start_worker(self) -> None:
        task = self._loop.create_task(self._work())
        self._workers.add(task)
        task.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        waiter = Waiter(self._loop)
        # An eager task runs before _start_worker() keeps it, which adds a reference.
        is_counted = task in self._workers
        expected = 0
        before = copy_context()
        while _is_pristine(task, before):
            # Counted in this place only: from 3.14 on the bytecode around the call decides
            # whether the call adds a reference of its own.
            references = references_to(task)
            expected = expected or references
            if references != expected:
                # The handler gave the task to other code, which may cancel it later, when
                # it serves another datagram.
                break
            if self._queue and self._room() > 0:
                # A new entry for each datagram: tasks that its handler makes inherit it.
                request, client_address = self._queue.popleft()
                entry = InTask(request, client_address, task)
                current.set(entry)
                before = copy_context()
                self._requests.begun(entry)
                if self._drained is not None:
                    self._tell_drained()
                await self._serve(entry)
            elif len(self._idle) < _IDLE_WORKERS and not self._ended:
                self._idle.append(waiter)
                try:
                    await waiter
                except BaseException:
                    if waiter in self._idle:
                        self._idle.remove(waiter)
                    raise
                if not is_counted:
                    is_counted = True
                    expected = 0
            else:
                return
        self.room_made()


def _is_pristine(task: asyncio.Task[None], before: Context) -> bool:
    """Whether the next handler in this worker would not notice those before it."""
    return (
        not task.cancelling() and not getattr(task, MUST_CANCEL, False) and copy_context() == before
    )

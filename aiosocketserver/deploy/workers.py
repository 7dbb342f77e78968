"""The parent of a service with several processes: it holds the sockets and looks after workers.

No more than that: on a machine it runs under systemd, and beside it Kubernetes has pods.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import signal
import socket
import warnings
from collections.abc import Callable
from typing import Any

from ..requests.children import (
    ChildWatch,
    flush_standard_streams,
    leave_servers,
    reap,
    start_child,
)
from .channel import Channel
from .exits import CANNOT_START
from .notify import Notifier
from .process import Limits, Worker
from .reloading import tell_too_late
from .settings import BEAT
from .snapshots import Snapshot

logger = logging.getLogger("aiosocketserver.deploy")

# Seconds that a worker has to tell its counters when it is asked.
_ANSWER = 1.0

# Seconds between two looks for workers that take too long to end, at the end of the service.
_LAST_PAUSE = 0.2

# A worker that has lived for less than this many seconds is not replaced at once: the next
# one waits, and the one after it twice as long, between these limits.
_SHORT_LIFE = 1.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0


class Supervisor:
    """Starts, watches, replaces and stops the workers, on the running loop.

    - run_worker: what a worker runs, given its number from 0 on and the socket that leads
      to the parent; returns its exit code
    - limits: after which a worker is killed
    - drain_delay: seconds between the signal to stop and the drain
    - notifier: tells the service manager
    """

    def __init__(
        self,
        run_worker: Callable[[int, socket.socket], int],
        number: int,
        limits: Limits,
        drain_delay: float,
        notifier: Notifier,
    ) -> None:
        self._run_worker = run_worker
        self._number = number
        self._limits = limits
        self._drain_delay = drain_delay
        self._notifier = notifier
        self._loop = asyncio.get_running_loop()
        # All that live, and for each slot the one that is to serve.
        self._workers: set[Worker] = set()
        self._current: dict[int, Worker] = {}
        # Those that have to start, or the service does not.
        self._first: list[Worker] = []
        # For each slot, how long the next one waits that replaces a short-lived one.
        self._pauses = [_FIRST_PAUSE] * number
        self._restarting: set[asyncio.TimerHandle] = set()
        self._reload_asked = False
        self._rolling: asyncio.Task[None] | None = None
        # What those counted that have ended.
        self._before = Snapshot()
        self._questions = itertools.count(1)
        # The first workers have started, and nobody has said stop.
        self._running = False
        self._told_serving = number
        self.stopping = asyncio.Event()
        self.restarts = 0

    @property
    def serving(self) -> int:
        """How many workers accept requests."""
        now = self._loop.time()
        return sum(worker.accepts(now) for worker in self._workers)

    @property
    def ready(self) -> bool:
        """Whether the service accepts requests, and is to go on."""
        return self._running and not self.stopping.is_set() and self.serving > 0

    async def run(self, on_ready: Callable[[], object]) -> int:
        """Serve until `stopping` is set, or the first workers cannot start; the exit code."""
        watching = asyncio.create_task(self._watch())
        stopping = asyncio.create_task(self.stopping.wait())
        starting = asyncio.create_task(self._start_all())
        code = 0
        try:
            await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
            if not self.stopping.is_set():
                if starting.result():
                    self._running = True
                    on_ready()
                    self._begin_rolling()
                    await stopping
                else:
                    code = CANNOT_START
        finally:
            starting.cancel()
            self.stopping.set()
            self._notifier.stopping()
            await self._end()
            watching.cancel()
        return code

    def seconds_to_drain(self) -> float | None:
        """What requests have from now on, if the service is told to end; None without a limit."""
        limits = [worker.shutdown_timeout for worker in self._workers if worker.has_served]
        limited = [limit for limit in limits if limit is not None]
        if not limited or len(limited) < len(limits):
            return None
        return self._drain_delay + max(limited)

    def kill_all(self) -> None:
        """End the workers, whatever they are doing. In any thread."""
        for worker in list(self._workers):
            worker.kill(signal.SIGKILL)

    async def _end(self) -> None:
        for handle in self._restarting:
            handle.cancel()
        if self._rolling is not None:
            self._rolling.cancel()
        # Who has not been ready has nobody to tell that it is not any more.
        if self._running:
            await asyncio.sleep(self._drain_delay)
        self._running = False
        for worker in self._workers:
            worker.stop(self._loop.time())
        while self._workers:
            await asyncio.wait([worker.ended for worker in self._workers])

    async def _watch(self) -> None:
        """Kill the workers that take too long, and tell how many serve."""
        pause = min(self._limits.silence / 10, self._limits.start / 10, BEAT)
        while True:
            if self.stopping.is_set():
                # The service has to be gone a second after its workers.
                pause = min(pause, _LAST_PAUSE)
            before = self._loop.time()
            await asyncio.sleep(pause)
            late = self._loop.time() - before - pause
            for worker in list(self._workers):
                # We were stopped, and so perhaps the whole group: Ctrl-Z, or a debugger.
                if late > BEAT:
                    worker.forgive(late)
                self._end_overdue(worker)
            self._tell_serving()

    def _end_overdue(self, worker: Worker) -> None:
        what = worker.overdue(self._loop.time(), self._limits)
        if what is None or worker.killed:
            return
        if worker.stopping or worker.asked_where:
            worker.killed = True
            worker.kill(signal.SIGKILL)
        else:
            # It writes to standard error where it hangs, and is killed the next time.
            worker.kill(signal.SIGQUIT)
        if not worker.asked_where:
            worker.asked_where = True
            logger.error("%s %s: killed", worker, what)

    def _tell_serving(self) -> None:
        """Tell how many serve, when it has changed."""
        if not self._running or self.stopping.is_set():
            return
        # While one is replaced, both serve for a moment.
        serving = min(self.serving, self._number)
        if serving == self._told_serving:
            return
        if not serving:
            logger.error("no worker serves: the service is not ready until one does")
        elif not self._told_serving:
            logger.warning("the service is ready again")
        self._told_serving = serving
        self._notifier.status(self._status())

    def _status(self) -> str:
        if self._told_serving == self._number:
            return "serving"
        if not self._told_serving:
            return "no worker serves"
        return f"serving with {self._told_serving} of {self._number} workers"

    async def _start_all(self) -> bool:
        try:
            # One first: what is wrong with the target is told once.
            self._first.append(self._start(0))
            if not await self._first[0].starts():
                return False
            self._first += [self._start(slot) for slot in range(1, self._number)]
        except OSError as error:
            logger.error("a worker cannot be started: %s", error)
            return False
        return all([await worker.starts() for worker in self._first])

    # One worker

    def _start(self, slot: int) -> Worker:
        flush_standard_streams()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with warnings.catch_warnings():
                    # Python 3.12 warns of threads. The ones that write log lines hold nothing
                    # that a child needs: see log_output.
                    warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
                    pid, raised = start_child(
                        functools.partial(self._run_in_child, slot, ours, theirs)
                    )
            except OSError:
                ours.close()
                raise
        worker = Worker(slot, pid, self._loop)
        worker.channel = Channel(ours, functools.partial(self._on_message, worker), _ignore)
        worker.watch = ChildWatch(self._loop, pid, functools.partial(self._on_end, worker))
        self._workers.add(worker)
        self._current.setdefault(slot, worker)
        if raised is not None:
            logger.error(
                "worker %d runs, although os.fork() has raised an error", pid, exc_info=raised
            )
        return worker

    def _run_in_child(self, slot: int, ours: socket.socket, theirs: socket.socket) -> int:
        # Ends that stay open in here would keep the others from seeing that we have ended.
        ours.close()
        leave_servers()
        for worker in self._workers:
            if worker.watch is not None:
                worker.watch.close_in_child()
        return self._run_worker(slot, theirs)

    def _on_message(self, worker: Worker, message: dict[str, Any]) -> None:
        worker.told(message, self._loop.time())
        answered = worker.asking.pop(message.get("answer", 0), None)
        if answered is not None:
            answered.set_result(None)
        self._tell_serving()

    def _on_end(self, worker: Worker) -> None:
        status = reap(worker.pid)
        if status is None:
            return
        assert worker.channel is not None
        assert worker.watch is not None
        worker.channel.drain()
        worker.watch.close()
        self._workers.discard(worker)
        worker.snapshot.active = 0
        self._before = Snapshot.total([self._before, worker.snapshot])
        code = os.waitstatus_to_exitcode(status)
        worker.ended.set_result(code)
        for answered in worker.asking.values():
            answered.set_result(None)
        worker.asking.clear()
        if not worker.ready.done():
            worker.ready.set_result(False)
        self._tell_serving()
        if worker.stopping or self.stopping.is_set():
            return
        # First of all: whatever logs records may wait. Of the first workers, one that has
        # never served keeps the service from starting.
        may_be_replaced = self._running or worker.ready.result() or worker not in self._first
        if may_be_replaced and self._current.get(worker.slot) is worker:
            self._replace(worker)
        how = f"was killed by {_name(-code)}" if code < 0 else f"ended with {code}"
        logger.error("%s %s", worker, how)

    def _replace(self, worker: Worker) -> None:
        slot = worker.slot
        lived = self._loop.time() - worker.begun_at
        pause = 0.0
        if not worker.ready.result() or lived < _SHORT_LIFE:
            pause = self._pauses[slot]
            self._pauses[slot] = min(pause * 2, _LONGEST_PAUSE)
        else:
            self._pauses[slot] = _FIRST_PAUSE
        del self._current[slot]
        self._start_later(slot, pause)

    def _start_later(self, slot: int, pause: float) -> None:
        def start() -> None:
            self._restarting.discard(handle)
            # A reload may have filled the slot meanwhile.
            if slot in self._current:
                return
            try:
                self._start(slot)
            except OSError:
                logger.exception("worker %d cannot be started", slot + 1)
                self._start_later(slot, _LONGEST_PAUSE)
            else:
                self.restarts += 1

        handle = self._loop.call_later(pause, start)
        self._restarting.add(handle)

    # All of them

    def reload(self) -> None:
        """Replace the workers one at a time, each by one that serves before the old one drains.

        While they are started or replaced already, that comes first: who asks wants what is
        there now.
        """
        if self.stopping.is_set():
            tell_too_late()
            return
        self._reload_asked = True
        if not self._running or self._rolling is not None:
            logger.info("a reload was asked for: it begins when the one under way has ended")
        self._begin_rolling()

    def _begin_rolling(self) -> None:
        if self._running and self._reload_asked and self._rolling is None:
            self._rolling = asyncio.create_task(self._roll_all())

    async def _roll_all(self) -> None:
        try:
            while self._reload_asked:
                self._reload_asked = False
                self._notifier.reloading()
                logger.info("reloading: the workers are replaced, one at a time")
                problem = await self._roll()
                if self.stopping.is_set():
                    return
                if problem:
                    logger.error("reloading has ended: %s, the others go on", problem)
                    self._notifier.ready(f"{self._status()}; the last reload failed: {problem}")
                else:
                    logger.info("reloaded")
                    self._notifier.ready(self._status())
        finally:
            self._rolling = None

    async def _roll(self) -> str | None:
        """Replace them all; what has kept one from it."""
        for slot in range(self._number):
            try:
                worker = self._start(slot)
            except OSError as error:
                return f"worker {slot + 1} cannot be started ({error})"
            if not await worker.starts():
                return f"{worker} cannot start"
            if worker.ended.done():
                return f"{worker} ended as soon as it served"
            old = self._current.get(slot)
            self._current[slot] = worker
            if old is not None and old is not worker:
                old.stop(self._loop.time())
                await old.ends()
        return None

    async def snapshot(self) -> Snapshot:
        """What all workers have counted, those included that have ended."""
        number = next(self._questions)
        answers: list[asyncio.Future[None]] = []
        for worker in self._workers:
            # One that still starts has counted nothing, and cannot answer.
            if not worker.has_served:
                continue
            assert worker.channel is not None
            worker.asking[number] = self._loop.create_future()
            answers.append(worker.asking[number])
            worker.channel.send({"question": number})
        if answers:
            await asyncio.wait(answers, timeout=_ANSWER)
        for worker in self._workers:
            worker.asking.pop(number, None)
        return Snapshot.total([self._before, *(worker.snapshot for worker in self._workers)])


def _name(number: int) -> str:
    """Of a signal; most real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ignore() -> None:
    """The end of a worker is seen by its process."""

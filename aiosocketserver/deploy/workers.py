"""The parent of a service with several processes: it holds the sockets and looks after workers.

No more than that: on a machine it runs under systemd, and beside it Kubernetes has pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from ..children import ChildWatch, flush_standard_streams, leave_servers, start_child
from .channel import Channel
from .exits import CANNOT_START
from .snapshots import Snapshot

logger = logging.getLogger("aiosocketserver.deploy")

# Seconds that a worker has to tell its counters when it is asked.
_ANSWER = 1.0

# A worker that has lived for less than this many seconds is not replaced at once: the next
# one waits, and the one after it twice as long, between these limits.
_SHORT_LIFE = 1.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0


class Worker:
    """One process, as its parent sees it."""

    def __init__(self, slot: int, pid: int, loop: asyncio.AbstractEventLoop) -> None:
        self.slot = slot
        self.pid = pid
        self.begun_at = self.seen_at = loop.time()
        self.channel: Channel | None = None
        self.watch: ChildWatch | None = None
        # Whether it serves, as soon as that is known, and its exit code.
        self.ready: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        # By number, those who wait for its counters.
        self.asking: dict[int, asyncio.Future[None]] = {}
        self.snapshot = Snapshot()
        # It was told to end.
        self.stopping = False

    def __str__(self) -> str:
        return f"worker {self.slot + 1} (process {self.pid})"

    @property
    def serves(self) -> bool:
        """Whether it accepts requests."""
        return self.ready.done() and self.ready.result() and not self.ended.done()

    def stop(self) -> None:
        """Have it drain."""
        self.stopping = True
        self.kill(signal.SIGTERM)

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, and to nobody who got its number afterwards."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Supervisor:
    """Starts, watches, replaces and stops the workers, on the running loop.

    - run_worker: what a worker runs, given its number from 0 on and the socket that leads
      to the parent; returns its exit code
    - worker_timeout: seconds without a sign of life after which one is killed
    - drain_delay: seconds between the signal to stop and the drain
    """

    def __init__(
        self,
        run_worker: Callable[[int, socket.socket], int],
        number: int,
        worker_timeout: float,
        drain_delay: float,
    ) -> None:
        self._run_worker = run_worker
        self._number = number
        self._worker_timeout = worker_timeout
        self._drain_delay = drain_delay
        self._loop = asyncio.get_running_loop()
        # All that live, and for each slot the one that is to serve.
        self._workers: set[Worker] = set()
        self._current: dict[int, Worker] = {}
        # How often in a row a slot had one that lived only shortly.
        self._short_lives = [0] * number
        self._restarting: set[asyncio.TimerHandle] = set()
        self._rolling: asyncio.Task[None] | None = None
        # What those counted that have ended.
        self._before = Snapshot()
        self._questions = itertools.count(1)
        self.stopping = asyncio.Event()
        self.ready = False
        self.restarts = 0

    @property
    def serving(self) -> int:
        """How many workers serve."""
        return sum(worker.serves for worker in self._workers)

    async def run(self, on_ready: Callable[[], object], on_stopping: Callable[[], object]) -> int:
        """Serve until `stopping` is set, or the first workers cannot start; the exit code."""
        watching = asyncio.create_task(self._watch())
        stopping = asyncio.create_task(self.stopping.wait())
        starting = asyncio.create_task(self._start_all())
        code = 0
        try:
            await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                if starting.result():
                    self.ready = True
                    on_ready()
                    await stopping
                else:
                    code = CANNOT_START
        finally:
            starting.cancel()
            self.ready = False
            self.stopping.set()
            on_stopping()
            if not code:
                await asyncio.sleep(self._drain_delay)
            await self._end()
            watching.cancel()
        return code

    def kill_all(self) -> None:
        """End the workers, whatever they are doing."""
        for worker in self._workers:
            worker.kill(signal.SIGKILL)

    async def _end(self) -> None:
        for handle in self._restarting:
            handle.cancel()
        if self._rolling is not None:
            self._rolling.cancel()
        for worker in self._workers:
            worker.stop()
        while self._workers:
            await asyncio.wait([worker.ended for worker in self._workers])

    async def _watch(self) -> None:
        """Kill the workers that give no sign of life."""
        while True:
            await asyncio.sleep(self._worker_timeout / 10)
            now = self._loop.time()
            for worker in self._workers:
                silence = now - worker.seen_at
                if worker.serves and silence > self._worker_timeout:
                    logger.error("%s gave no sign of life for %.1f s: killed", worker, silence)
                    worker.kill(signal.SIGKILL)

    async def _start_all(self) -> bool:
        # One first: what is wrong with the target is told once.
        if not await self._start(0).ready:
            return False
        others = [self._start(slot) for slot in range(1, self._number)]
        return all([await worker.ready for worker in others])

    # One worker

    def _start(self, slot: int) -> Worker:
        flush_standard_streams()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = start_child(functools.partial(self._run_in_child, slot, ours, theirs))
            except OSError:
                ours.close()
                raise
        worker = Worker(slot, pid, self._loop)
        worker.channel = Channel(ours, functools.partial(self._on_message, worker), _ignore)
        worker.watch = ChildWatch(self._loop, pid, functools.partial(self._on_end, worker))
        self._workers.add(worker)
        self._current.setdefault(slot, worker)
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
        worker.seen_at = self._loop.time()
        worker.snapshot = Snapshot.from_json(message["snapshot"])
        answered = worker.asking.pop(message.get("answer", 0), None)
        if answered is not None:
            answered.set_result(None)
        if "ready" in message and not worker.ready.done():
            worker.ready.set_result(True)

    def _on_end(self, worker: Worker) -> None:
        pid, status = os.waitpid(worker.pid, os.WNOHANG)
        if not pid:
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
        if worker.stopping or self.stopping.is_set():
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        logger.error("%s %s", worker, how)
        if self.ready and self._current.get(worker.slot) is worker:
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        slot = worker.slot
        lived = self._loop.time() - worker.begun_at
        short = not worker.ready.result() or lived < _SHORT_LIFE
        self._short_lives[slot] = self._short_lives[slot] + 1 if short else 0
        pause = 0.0
        if short:
            pause = min(_FIRST_PAUSE * 2 ** (self._short_lives[slot] - 1), _LONGEST_PAUSE)
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

    def roll(self, on_begin: Callable[[], object], on_end: Callable[[], object]) -> None:
        """Replace the workers one at a time, each by one that serves before the old one drains."""
        if not self.ready or (self._rolling is not None and not self._rolling.done()):
            logger.warning("a reload was asked for while the workers are started or stopped")
            return
        self._rolling = asyncio.create_task(self._roll(on_begin, on_end))

    async def _roll(self, on_begin: Callable[[], object], on_end: Callable[[], object]) -> None:
        on_begin()
        logger.info("reloading: the workers are replaced, one at a time")
        try:
            for slot in range(self._number):
                worker = self._start(slot)
                if not await worker.ready:
                    logger.error("reloading has ended: %s cannot start, the others go on", worker)
                    return
                old = self._current.get(slot)
                self._current[slot] = worker
                if old is not None and old is not worker:
                    old.stop()
                    await old.ended
            logger.info("reloaded")
        except OSError:
            logger.exception("reloading has ended: a worker cannot be started, the others go on")
        finally:
            if not self.stopping.is_set():
                on_end()

    async def snapshot(self) -> Snapshot:
        """What all workers have counted, those included that have ended."""
        number = next(self._questions)
        answers: list[asyncio.Future[None]] = []
        for worker in self._workers:
            assert worker.channel is not None
            worker.asking[number] = self._loop.create_future()
            answers.append(worker.asking[number])
            worker.channel.send({"question": number})
        if answers:
            await asyncio.wait(answers, timeout=_ANSWER)
        for worker in self._workers:
            worker.asking.pop(number, None)
        return Snapshot.total([self._before, *(worker.snapshot for worker in self._workers)])


def _ignore() -> None:
    """The end of a worker is seen by its process."""

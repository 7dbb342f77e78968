"""Threads that run one blocking job after another and end when there is none for a while."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue

# Seconds that a thread waits for its next job. Trio and anyio chose 10 as well: long
# enough for the gaps of a busy server, short enough to give a burst's threads back.
IDLE_TIMEOUT = 10.0


def name_of_new_thread(target: Callable[..., object]) -> str:
    """The name that `threading.Thread(target=target)` would have, which counts as its own.

    Making one for its name would take a tenth of the time of a short connection.
    """
    template = "Thread-%d"
    name = getattr(target, "__name__", None)
    if name is not None:
        template += f" ({name.replace('%', '%%')})"
    return threading._newname(template)  # type: ignore[attr-defined, no-any-return]


class Job:
    """A blocking call in a thread of a pool; `join`, `is_alive` as those of `threading.Thread`."""

    __slots__ = ("_ends_thread", "_on_end", "_running", "_worker", "context", "function", "name")

    _worker: _Worker

    def __init__(
        self,
        function: Callable[[], object],
        context: Context,
        name: str | None,
        on_end: Callable[[Job], object] | None,
    ) -> None:
        self.function = function
        self.context = context
        self.name = name
        self._on_end = on_end
        # Held while it runs: cheaper than an Event, for one in a thousand that is joined.
        self._running = threading.Lock()
        self._running.acquire()
        self._ends_thread = False

    @property
    def daemon(self) -> bool:
        """Whether its thread is a daemon."""
        return self._worker.daemon

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._running.locked()

    def join(self) -> None:
        """Wait until it has ended, and its thread is idle or gone.

        Raises RuntimeError when the job itself does that.
        """
        if self._worker is threading.current_thread():
            raise RuntimeError("cannot join current thread")
        with self._running:
            pass
        if self._ends_thread:
            self._worker.join()

    def _end(self, *, ends_thread: bool) -> None:
        self._ends_thread = ends_thread
        self._running.release()
        if self._on_end is not None:
            self._on_end(self)


class ThreadPool:
    """The reused threads of one server; as many as there are jobs at once, without a limit.

    An idle thread never delays the interpreter's exit; one with a job does unless it
    is a daemon, as with `threading.Thread`. All methods may be called in any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Last in, first out, so that the threads that are not needed are the ones to end.
        self._idle: dict[bool, list[_Worker]] = {True: [], False: []}
        self._keeps_threads = True
        # Jobs that have not ended.
        self.busy = 0
        _pools.add(self)

    def submit(
        self,
        function: Callable[[], object],
        context: Context,
        *,
        name: str | None = None,
        daemon: bool = True,
        reuse: bool = True,
        on_end: Callable[[Job], object] | None = None,
    ) -> Job:
        """Run `function` in `context`, in an idle thread or a new one of that `daemon` kind.

        The thread bears `name` while it runs the job, and calls `on_end` when it is
        idle again or about to end. Raises RuntimeError when no thread can be started.
        """
        job = Job(function, context, name, on_end)
        with self._lock:
            self._keeps_threads = True
            self.busy += 1
            idle = self._idle[daemon]
            worker = idle.pop() if idle and reuse else None
            if worker is not None:
                job._worker = worker
                worker.jobs.put(job)
                return job
        job._worker = worker = _Worker(self, daemon=daemon, reuse=reuse)
        worker.jobs.put(job)
        try:
            worker.start()
        except BaseException:
            with self._lock:
                self.busy -= 1
            raise
        return job

    def end_idle(self) -> list[threading.Thread]:
        """End the idle threads now, and each busy one after its job, until `submit` is called.

        Returns those that were idle: they may still be joined.
        """
        with self._lock:
            self._keeps_threads = False
            ending: list[threading.Thread] = []
            for idle in self._idle.values():
                for worker in idle:
                    worker.jobs.put(None)
                ending += idle
                idle.clear()
            return ending

    def forget_threads(self) -> None:
        """In a forked child: none of the threads is there."""
        self.busy = 0
        self._lock = threading.Lock()
        self._idle = {True: [], False: []}

    def _keep(self, worker: _Worker) -> bool:
        """The worker's job has ended: make it an idle one; False when it has to end instead."""
        with self._lock:
            self.busy -= 1
            kept = worker.reuse and self._keeps_threads
            if kept:
                self._idle[worker.daemon].append(worker)
            return kept

    def _withdraw(self, worker: _Worker) -> bool:
        """Take a worker out that waited in vain; False when a job is on its way to it."""
        with self._lock:
            idle = self._idle[worker.daemon]
            if worker in idle:
                idle.remove(worker)
                return True
            return False


class _Worker(threading.Thread):
    def __init__(self, pool: ThreadPool, *, daemon: bool, reuse: bool) -> None:
        super().__init__(daemon=daemon, name="aiosocketserver worker")
        self.pool = pool
        self.reuse = reuse
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()

    def run(self) -> None:
        own_name = self.name
        job = self.jobs.get()
        while job is not None:
            if job.name is not None:
                self.name = job.name
            try:
                job.context.run(job.function)
            except SystemExit:
                # As in a thread of its own: it ends that one only, without a word.
                pass
            except BaseException:  # noqa: BLE001 - reported, as a thread of its own would
                self._report()
            finally:
                self.name = own_name
                # Nothing that the job holds may live on while somebody keeps the job.
                del job.function, job.context
                kept = self.pool._keep(self)
                job._end(ends_thread=not kept)
                # Nor while this thread is idle.
                job = None
            if kept:
                job = self._next_job()

    def _next_job(self) -> Job | None:
        try:
            return self.jobs.get(timeout=IDLE_TIMEOUT)
        except Empty:
            return None if self.pool._withdraw(self) else self.jobs.get()

    def _report(self) -> None:
        threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), self]))


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def _end_all_idle() -> None:
    for pool in list(_pools):
        pool.end_idle()


# The interpreter joins all threads that are not daemons before it runs what `atexit`
# registers. The hook before that is not public; concurrent.futures needs it for the
# same reason.
threading._register_atexit(_end_all_idle)  # type: ignore[attr-defined]


def _forget_threads() -> None:
    for pool in list(_pools):
        pool.forget_threads()


# A job given to a thread that the fork has not copied would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)

"""Threads that run one blocking job after another and end when there is none for a while."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue

# Seconds that a thread waits for its next job. Trio and anyio chose 10 as well: long
# enough for the gaps of a busy server, short enough to give a burst's threads back.
IDLE_TIMEOUT = 10.0


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
        _pools.add(self)

    def submit(
        self,
        job: Callable[[], object],
        context: Context,
        *,
        name: str | None = None,
        daemon: bool = True,
        reuse: bool = True,
    ) -> None:
        """Run `job` in `context`, in an idle thread or a new one of that `daemon` kind.

        The thread bears `name` while it runs the job. Raises RuntimeError when no
        thread can be started.
        """
        with self._lock:
            self._keeps_threads = True
            idle = self._idle[daemon]
            worker = idle.pop() if idle and reuse else None
            if worker is not None:
                worker.jobs.put((job, context, name))
                return
        worker = _Worker(self, daemon=daemon, reuse=reuse)
        worker.jobs.put((job, context, name))
        worker.start()

    def end_idle(self) -> None:
        """End the idle threads now, and each busy one after its job, until `submit` is called."""
        with self._lock:
            self._keeps_threads = False
            for idle in self._idle.values():
                for worker in idle:
                    worker.jobs.put(None)
                idle.clear()

    def _keep(self, worker: _Worker) -> bool:
        """Make the worker an idle one; False when it has to end instead."""
        with self._lock:
            if self._keeps_threads:
                self._idle[worker.daemon].append(worker)
            return self._keeps_threads

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
        self.jobs: SimpleQueue[tuple[Callable[[], object], Context, str | None] | None] = (
            SimpleQueue()
        )

    def run(self) -> None:
        own_name = self.name
        job = self.jobs.get()
        while job is not None:
            function, context, name = job
            if name is not None:
                self.name = name
            try:
                context.run(function)
            except SystemExit:
                # As in a thread of its own: it ends that one only, without a word.
                pass
            except BaseException:  # noqa: BLE001 - reported, as a thread of its own would
                self._report()
            finally:
                self.name = own_name
                # Nothing of a job may live on while this thread is idle.
                del function, context
                job = None
            if self.reuse and self.pool._keep(self):
                job = self._next_job()

    def _next_job(self) -> tuple[Callable[[], object], Context, str | None] | None:
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

"""Threads that run one blocking job after another and end when there is none for a while."""

from __future__ import annotations

import asyncio

# Imported by whoever first asks for asyncio's executor, and by uvloop, which fails once the
# main thread has ended. A program may go on then, in other threads.
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue

from ..cpython import (
    event_loop_set_here,
    new_thread_name,
    register_before_threads_are_joined,
)
from .back_off import cannot_start

# Seconds that a thread waits for its next job, unless its pool says otherwise. Trio and
# anyio chose 10 as well: long enough for the gaps of a busy server, short enough to give
# a burst's threads back.
IDLE_TIMEOUT = 10.0


def name_of_new_thread(target: Callable[..., object]) -> str:
    """The name that `threading.Thread(target=target)` would have, which counts as its own.

    Making one for its name would take a tenth of the time of a short connection.
    """
    template = "Thread-%d"
    name = getattr(target, "__name__", None)
    if name is not None:
        template += f" ({name.replace('%', '%%')})"
    return new_thread_name(template)


class Job:
    """A blocking call in a thread of a pool; `join`, `is_alive` as those of `threading.Thread`."""

    __slots__ = (
        "_ends_thread",
        "_on_end",
        "_running",
        "_worker",
        "context",
        "daemon",
        "function",
        "interrupted_by",
        "name",
    )

    def __init__(
        self,
        function: Callable[[], object],
        context: Context,
        name: str | None,
        on_end: Callable[[Job], object] | None,
        *,
        daemon: bool,
    ) -> None:
        self.function = function
        self.context = context
        self.name = name
        self.daemon = daemon
        # What a signal handler has raised in `submit` when a thread had taken the job already.
        self.interrupted_by: BaseException | None = None
        self._on_end = on_end
        # Held until it has ended: cheaper than an Event, for one in a thousand that is joined.
        self._running = threading.Lock()
        self._running.acquire()
        self._worker: _Worker | None = None
        self._ends_thread = False

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._running.locked()

    def join(self) -> None:
        """Wait until it has ended, and its thread is free for another one or gone.

        Raises RuntimeError when the job itself does that.
        """
        if self._worker is threading.current_thread():
            raise RuntimeError("cannot join current thread")
        with self._running:
            pass
        if self._ends_thread and self._worker is not None:
            self._worker.join()

    def _end(self, *, ends_thread: bool) -> None:
        self._ends_thread = ends_thread
        self._running.release()
        if self._on_end is not None:
            self._on_end(self)


class _Crew:
    """The reused threads of a pool that are daemons, or those that are not, and their jobs.

    Every job in the queue has a thread that is idle or on its way. Only one of them is
    woken at a time, and wakes the next one before it turns to its job: a thread that
    has just done with a short job often takes the next one sooner, and each thread that
    is woken costs two switches between threads (docs/decisions/0006-reused-threads.md).
    """

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()
        # Last in, first out, so that the threads that are not needed are the ones to end.
        self.idle: list[_Worker] = []
        # Those that were woken, or started, and have not looked at the queue yet.
        self.on_their_way: set[_Worker] = set()

    def lacks_threads(self) -> bool:
        """Whether one more job needs one more thread."""
        return len(self.queue) >= len(self.idle) + len(self.on_their_way)

    def wake_if_needed(self) -> None:
        """Wake a thread if there is a job and nobody is on the way to it."""
        if self.queue and not self.on_their_way:
            worker = self.idle.pop()
            self.on_their_way.add(worker)
            worker.wake.put(True)

    def end_spare(self) -> list[_Worker]:
        """End the threads that no job in the queue needs; they find out by themselves."""
        needed = max(0, len(self.queue) - len(self.on_their_way))
        spare, self.idle = self.idle[needed:], self.idle[:needed]
        for worker in spare:
            worker.wake.put(False)
        # Their job was taken by another one.
        return spare if self.queue else [*spare, *self.on_their_way]


class ThreadPool:
    """The reused threads of one server; as many as there are jobs at once, without a limit.

    A thread without a job ends after `idle_timeout` seconds; None for IDLE_TIMEOUT. Until
    then it never delays the interpreter's exit; one with a job does unless it is a daemon,
    as with `threading.Thread`. All methods may be called in any thread.
    """

    def __init__(self, idle_timeout: float | None = None) -> None:
        self.idle_timeout = idle_timeout
        self._lock = threading.Lock()
        self._crews = {True: _Crew(), False: _Crew()}
        self._keeps_threads = True
        # Jobs that have not ended.
        self.busy = 0
        # Told by a thread that has nothing to do any more: of a job that could not be given
        # to any.
        self.on_idle: set[Callable[[], object]] = set()
        # Threads without a job that were told to end, the last ones of them alive yet.
        self._ending: list[_Worker] = []
        _pools.add(self)

    def submit(
        self,
        function: Callable[[], object],
        context: Context,
        *,
        name: str | None = None,
        daemon: bool = True,
        reuse: bool = True,
        on_begin: Callable[[Job], object] | None = None,
        on_end: Callable[[Job], object] | None = None,
    ) -> Job:
        """Run `function` in `context`, in an idle thread or a new one of that `daemon` kind.

        The thread bears `name` while it runs the job, and calls `on_end` when it is
        free again or about to end. `on_begin` is called here, before the job can begin.
        Raises RuntimeError or MemoryError when no thread can be started, after `on_end`.

        Whatever it raises, the job does not run. What a signal handler raises while a new
        thread begins, KeyboardInterrupt as a rule, may be too late for that: the caller has
        to raise or to tell what it finds in the job's `interrupted_by`.
        """
        job = Job(function, context, name, on_end, daemon=daemon)
        if on_begin is not None:
            on_begin(job)
        crew = self._crews[daemon] if reuse else _Crew()
        worker: _Worker | None = None
        try:
            with self._lock:
                self._keeps_threads = True
                if not crew.lacks_threads():
                    self.busy += 1
                    crew.queue.append(job)
                    crew.wake_if_needed()
                    return job
                worker = _Worker(self, crew, daemon=daemon, reuse=reuse)
                self.busy += 1
                crew.queue.append(job)
                crew.on_their_way.add(worker)
            worker.start()
        except BaseException as error:
            if self._take_back(job, crew, worker):
                job._end(ends_thread=False)
                raise
            if not cannot_start(error):
                job.interrupted_by = error
        return job

    def _take_back(self, job: Job, crew: _Crew, worker: _Worker | None) -> bool:
        """Forget a job, whose thread could not be started; False if another one has taken it."""
        if worker is None:
            # There was no memory for its thread, and nobody has seen the job.
            return True
        with self._lock:
            crew.on_their_way.discard(worker)
            waits = job in crew.queue
            if waits:
                crew.queue.remove(job)
                self.busy -= 1
            crew.wake_if_needed()
        return waits

    def end_idle(self) -> list[threading.Thread]:
        """End the idle threads now, and each busy one after its job, until `submit` is called.

        Returns those that have no job and have not ended yet, to be joined.
        """
        with self._lock:
            self._keeps_threads = False
            for crew in self._crews.values():
                self._forget_ended(crew.end_spare())
            return list(self._ending)

    def forget_threads(self) -> None:
        """In a forked child: none of the threads is there."""
        self.busy = 0
        self._lock = threading.Lock()
        self._crews = {True: _Crew(), False: _Crew()}
        self._ending = []
        self.on_idle = set()

    def _next_job(self, worker: _Worker, *, after_job: bool) -> tuple[Job | None, bool]:
        """A job for a thread that is free, if there is one, and whether the thread goes on."""
        crew = worker.crew
        with self._lock:
            if after_job:
                self.busy -= 1
            else:
                crew.on_their_way.discard(worker)
            if crew.queue:
                job = crew.queue.popleft()
                crew.wake_if_needed()
                return job, True
            kept = worker.reuse and self._keeps_threads
            if kept:
                crew.idle.append(worker)
            else:
                self._forget_ended([worker])
            return None, kept

    def _forget_ended(self, ending: list[_Worker]) -> None:
        self._ending += ending
        # One that was told to end and is not alive has either ended or not begun.
        self._ending = [worker for worker in self._ending if worker.is_alive()]

    def _leave(self, worker: _Worker) -> bool:
        """A thread has waited in vain; False when it is needed, or a job is on its way to it."""
        crew = worker.crew
        with self._lock:
            if worker not in crew.idle or crew.queue:
                return False
            crew.idle.remove(worker)
            return True


class _Worker(threading.Thread):
    def __init__(self, pool: ThreadPool, crew: _Crew, *, daemon: bool, reuse: bool) -> None:
        super().__init__(daemon=daemon, name="aiosocketserver worker")
        self.pool = pool
        self.crew = crew
        self.reuse = reuse
        # True when there may be a job, False when the thread shall end.
        self.wake: SimpleQueue[bool] = SimpleQueue()

    def run(self) -> None:
        job, goes_on = self.pool._next_job(self, after_job=False)
        while goes_on:
            if job is not None:
                done = job
                self._run_job(done)
                job, goes_on = self.pool._next_job(self, after_job=True)
                done._end(ends_thread=not goes_on)
                # Nothing of it may live on while this thread is idle.
                del done
            elif self._is_woken():
                job, goes_on = self.pool._next_job(self, after_job=False)
            else:
                return

    def _run_job(self, job: Job) -> None:
        """Run it as a new thread would, whatever the job before has done to this thread."""
        job._worker = self
        own_name = self.name
        if job.name is not None:
            self.name = job.name
        attributes = self.__dict__
        own = len(attributes)
        # As a thread that begins now. This one may have begun before they were set.
        if (trace := threading.gettrace()) is not None:
            sys.settrace(trace)
        if (profile := threading.getprofile()) is not None:
            sys.setprofile(profile)
        try:
            job.context.run(job.function)
        except BaseException:  # noqa: BLE001 - reported, as a thread of its own would
            # SystemExit too, which the hook is silent about.
            threading.excepthook(threading.ExceptHookArgs([*sys.exc_info(), self]))
        finally:
            # Now, and not when the next job begins: a debugger that stops at each line
            # would stop among the jobs of others.
            if sys.gettrace() is not None:
                sys.settrace(None)
            if sys.getprofile() is not None:
                sys.setprofile(None)
            self.name = own_name
            if len(attributes) != own:
                for name in list(attributes)[own:]:
                    del attributes[name]
            _forget_event_loop()
            # Nothing that the job holds may live on while somebody keeps the job.
            del job.function, job.context

    def _is_woken(self) -> bool:
        """Wait for a job; False when the thread has to end instead."""
        if self.pool.on_idle:
            for told in list(self.pool.on_idle):
                told()
        own = self.pool.idle_timeout
        while True:
            try:
                return self.wake.get(timeout=IDLE_TIMEOUT if own is None else own)
            except Empty:
                if self.pool._leave(self):
                    return False


def _forget_event_loop() -> None:
    """Let go of the loop that a job has made this thread's own, with `asyncio.set_event_loop`.

    It is closed, as a rule, and the next job, which asks for the loop before it makes
    one, would get it. To set none for each job would take far longer than to look.
    """
    if event_loop_set_here() is not None:
        asyncio.set_event_loop(None)


_pools: weakref.WeakSet[ThreadPool] = weakref.WeakSet()


def end_all_idle() -> list[threading.Thread]:
    """End the idle threads of every pool; those that have not ended yet, to be joined."""
    return [thread for pool in list(_pools) for thread in pool.end_idle()]


register_before_threads_are_joined(end_all_idle)


def _forget_threads() -> None:
    for pool in list(_pools):
        pool.forget_threads()


# A job given to a thread that the fork has not copied would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)

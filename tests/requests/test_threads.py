"""The pool of reused threads: names, contexts, order of reuse, and when threads end."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest

from aiosocketserver.requests import threads
from aiosocketserver.requests.threads import ThreadPool

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool()
    yield pool
    pool.end_idle()


class Blocked:
    """A job that runs until it is released."""

    def __init__(self, pool: ThreadPool, **options: Any) -> None:
        self.begun: SimpleQueue[threading.Thread] = SimpleQueue()
        self.released = threading.Event()
        pool.submit(self, Context(), **options)
        self.thread = self.begun.get(timeout=10)

    def __call__(self) -> None:
        self.begun.put(threading.current_thread())
        assert self.released.wait(10)

    def release(self, pool: ThreadPool) -> None:
        """Let it end, and return when its thread is idle."""
        self.released.set()
        wait_until_idle(pool, self.thread)


def wait_until_idle(pool: ThreadPool, thread: threading.Thread) -> None:
    waiting = threading.Event()
    while all(thread not in crew.idle for crew in pool._crews.values()):
        waiting.wait(0.001)


def run(pool: ThreadPool, function: Callable[[], Any], **options: Any) -> Any:
    """What `function` returns in a thread of the pool, which is idle again then."""
    results: SimpleQueue[tuple[threading.Thread, Any]] = SimpleQueue()
    pool.submit(lambda: results.put((threading.current_thread(), function())), Context(), **options)
    thread, result = results.get(timeout=10)
    if options.get("reuse", True):
        wait_until_idle(pool, thread)
    return result


def test_idle_thread_runs_the_next_job(pool: ThreadPool) -> None:
    idents = {run(pool, threading.get_ident) for _ in range(5)}
    assert len(idents) == 1


def test_thread_that_became_idle_last_is_taken_first(pool: ThreadPool) -> None:
    first, second, third = (Blocked(pool) for _ in range(3))
    for job in (second, third, first):
        job.release(pool)
    reused = [Blocked(pool) for _ in range(3)]
    assert [job.thread for job in reused] == [first.thread, third.thread, second.thread]
    for job in reused:
        job.release(pool)


def test_each_job_has_a_thread_however_many_block(pool: ThreadPool) -> None:
    jobs = [Blocked(pool) for _ in range(100)]
    assert len({job.thread for job in jobs}) == 100
    for job in jobs:
        job.release(pool)


def test_thread_bears_the_name_of_its_job_only_while_it_runs_it(pool: ThreadPool) -> None:
    def name() -> str:
        return threading.current_thread().name

    before = set(threading.enumerate())
    assert run(pool, name, name="Thread-7 (process_request_thread)").startswith("Thread-7")
    (thread,) = set(threading.enumerate()) - before
    assert thread.name == "aiosocketserver worker"
    assert run(pool, name, name="other") == "other"


def test_thread_is_a_daemon_as_asked(pool: ThreadPool) -> None:
    def daemon() -> bool:
        return threading.current_thread().daemon

    for wanted in (True, False, True, False):
        assert run(pool, daemon, daemon=wanted) is wanted


def test_job_runs_in_its_context(pool: ThreadPool) -> None:
    def paint() -> str:
        before = colour.get()
        colour.set("red")
        return before

    context = Context()
    context.run(colour.set, "blue")
    results: SimpleQueue[str] = SimpleQueue()
    pool.submit(lambda: results.put(paint()), context)
    assert results.get(timeout=10) == "blue"
    assert context[colour] == "red"
    assert run(pool, paint) == "none"
    assert run(pool, paint) == "none"


def test_without_reuse_each_job_has_a_new_thread(pool: ThreadPool) -> None:
    local = threading.local()

    def seen() -> bool:
        before = hasattr(local, "seen")
        local.seen = True
        return before

    assert [run(pool, seen, reuse=False) for _ in range(3)] == [False] * 3
    assert [run(pool, seen) for _ in range(3)] == [False, True, True]


def test_idle_thread_ends_after_a_while(pool: ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_TIMEOUT", 0.01)
    job = Blocked(pool)
    job.released.set()
    job.thread.join(10)
    assert not job.thread.is_alive()
    assert run(pool, lambda: "a new one", reuse=False) == "a new one"


def test_job_that_comes_as_the_thread_gives_up_is_run(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "IDLE_TIMEOUT", 0.0)
    done: SimpleQueue[int] = SimpleQueue()
    for number in range(500):
        pool.submit(lambda number=number: done.put(number), Context())  # type: ignore[misc]
    assert sorted(done.get(timeout=10) for _ in range(500)) == list(range(500))


def test_thread_that_is_woken_as_it_gives_up_takes_the_job(pool: ThreadPool) -> None:
    """The moment between the end of a thread's patience and its leaving, held open."""
    results: SimpleQueue[str] = SimpleQueue()
    leave = pool._leave

    def late(worker: threads._Worker) -> bool:
        pool._leave = leave  # type: ignore[method-assign]
        threads.IDLE_TIMEOUT = 10.0
        worker.name = "the late one"
        pool.submit(lambda: results.put(threading.current_thread().name), Context())
        return leave(worker)

    pool._leave = late  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "IDLE_TIMEOUT", 0.0)
        pool.submit(lambda: None, Context()).join()
        assert results.get(timeout=10) == "the late one"


def test_thread_that_has_done_takes_a_job_that_waits_for_a_thread_to_start(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Blocked(pool)
    start = threads._Worker.start

    def late(worker: threads._Worker) -> None:
        first.released.set()
        taken.join()
        start(worker)

    taken = threads.Job(lambda: None, Context(), None, None, daemon=True)
    monkeypatch.setattr(threads, "Job", lambda *args, **kwargs: taken)
    monkeypatch.setattr(threads._Worker, "start", late)
    taken.function = lambda: first.begun.put(threading.current_thread())
    assert pool.submit(taken.function, Context()) is taken
    assert first.begun.get(timeout=10) is first.thread


def test_thread_that_cannot_be_started_does_no_harm_when_another_takes_its_job(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Blocked(pool)
    ended = threading.Event()

    def fail(worker: threads._Worker) -> None:
        first.released.set()
        assert ended.wait(10)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._Worker, "start", fail)
    pool.submit(ended.set, Context()).join()
    assert pool.busy == 0


def test_one_thread_after_the_other_is_woken_for_jobs_that_block(pool: ThreadPool) -> None:
    for job in [Blocked(pool) for _ in range(5)]:
        job.release(pool)
    begun: SimpleQueue[threading.Thread] = SimpleQueue()
    released = threading.Event()

    def block() -> None:
        begun.put(threading.current_thread())
        assert released.wait(10)

    for _ in range(5):
        pool.submit(block, Context())
    assert len({begun.get(timeout=10) for _ in range(5)}) == 5
    released.set()


def test_end_idle_ends_idle_threads_now_and_busy_ones_after_their_job(pool: ThreadPool) -> None:
    idle, busy = Blocked(pool), Blocked(pool)
    idle.release(pool)
    pool.end_idle()
    idle.thread.join(10)
    assert not idle.thread.is_alive()
    assert busy.thread.is_alive()
    busy.released.set()
    busy.thread.join(10)
    assert not busy.thread.is_alive()


def test_system_exit_ends_only_its_job(pool: ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", reported.put)
    pool.submit(sys.exit, Context())
    # threading's own hook is silent about it.
    assert reported.get(timeout=10).exc_type is SystemExit
    assert run(pool, lambda: "goes on") == "goes on"


def test_exception_of_a_job_is_reported_as_a_threads_own(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: SimpleQueue[threading.ExceptHookArgs] = SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", reported.put)

    def fail() -> None:
        raise KeyboardInterrupt("as asked")

    pool.submit(fail, Context(), name="the failing one")
    report = reported.get(timeout=10)
    assert report.exc_type is KeyboardInterrupt
    assert report.thread is not None
    assert run(pool, lambda: "goes on") == "goes on"


def test_nothing_of_a_job_outlives_it(pool: ThreadPool) -> None:
    class Payload:
        def __init__(self, gone: threading.Event) -> None:
            self.gone = gone

        def __call__(self) -> None:
            pass

        def __del__(self) -> None:
            self.gone.set()

    gone = threading.Event()
    pool.submit(Payload(gone), Context())
    assert gone.wait(10)


def test_thread_that_cannot_be_started_is_an_error(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.submit(print, Context())
    assert run(pool, lambda: "goes on") == "goes on"


def test_without_memory_for_a_thread_the_pool_is_as_before(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(*args: Any, **kwargs: Any) -> None:
        raise MemoryError

    jobs: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "__init__", init)
        with pytest.raises(MemoryError):
            pool.submit(print, Context(), on_begin=jobs.append, on_end=jobs.remove)
    assert (pool.busy, jobs) == (0, [])
    assert run(pool, lambda: "goes on") == "goes on"


# --- the interpreter's exit ---

EXIT = """
import sys, threading, time
from contextvars import Context
from aiosocketserver.requests.threads import ThreadPool

pool = ThreadPool()
begun = threading.Event()

def job():
    begun.set()
    {job}
    print("done", flush=True)

pool.submit(job, Context(), daemon={daemon})
begun.wait()
{then}
"""


def exit_of(job: str, *, daemon: bool, then: str = "") -> str:
    program = EXIT.format(job=job, daemon=daemon, then=then)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert not ended.stderr
    return ended.stdout


@pytest.mark.parametrize("daemon", [True, False])
def test_idle_threads_do_not_delay_the_exit(daemon: bool) -> None:
    # Were it joined, the interpreter would wait for an hour.
    idle = (
        "from aiosocketserver.requests import threads\n"
        "threads.IDLE_TIMEOUT = 3600\n"
        "while not any(crew.idle for crew in pool._crews.values()): time.sleep(0.01)"
    )
    assert exit_of("pass", daemon=daemon, then=f"{idle}\n") == "done\n"


def test_busy_threads_delay_the_exit_unless_they_are_daemons() -> None:
    assert exit_of("time.sleep(0.5)", daemon=False) == "done\n"
    assert exit_of("time.sleep(3600)", daemon=True) == ""


def test_join_waits_for_the_job_and_for_a_thread_that_ends_with_it(pool: ThreadPool) -> None:
    started, released = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        released.wait(10)

    job = pool.submit(wait, Context(), reuse=False, daemon=True)
    assert started.wait(10)
    assert job.is_alive()
    assert job.daemon
    released.set()
    job.join()
    assert not job.is_alive()
    assert job._worker is not None
    assert not job._worker.is_alive()


def test_after_join_the_thread_is_idle(pool: ThreadPool) -> None:
    pool.submit(lambda: None, Context()).join()
    [thread] = pool.end_idle()
    thread.join(10)
    assert not thread.is_alive()


def test_a_job_cannot_join_itself(pool: ThreadPool) -> None:
    errors: SimpleQueue[str] = SimpleQueue()
    jobs: SimpleQueue[threads.Job] = SimpleQueue()

    def join_itself() -> None:
        with pytest.raises(RuntimeError) as raised:
            jobs.get(timeout=10).join()
        errors.put(str(raised.value))

    jobs.put(pool.submit(join_itself, Context()))
    assert errors.get(timeout=10) == "cannot join current thread"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_that_it_has_not(pool: ThreadPool) -> None:
    pool.submit(lambda: None, Context()).join()  # the idle thread that the fork does not copy
    pid = os.fork()
    if not pid:
        done = threading.Event()
        pool.submit(done.set, Context())
        os._exit(0 if done.wait(10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_end_idle_leaves_the_threads_that_jobs_wait_for(pool: ThreadPool) -> None:
    for blocked in [Blocked(pool) for _ in range(3)]:
        blocked.release(pool)
    done: SimpleQueue[int] = SimpleQueue()
    with pool._lock:  # no thread can take anything meanwhile
        crew = pool._crews[True]
        for number in range(3):
            job = threads.Job(partial(done.put, number), Context(), None, None, daemon=True)
            crew.queue.append(job)
            crew.wake_if_needed()
        spare = crew.end_spare()
        pool.busy += 3
    assert spare == []
    assert sorted(done.get(timeout=10) for _ in range(3)) == [0, 1, 2]


def test_the_hook_for_exceptions_of_threads_sees_system_exit(
    pool: ThreadPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    pool.submit(sys.exit, Context()).join()
    assert seen == [SystemExit]

"""The loop matrix, and the check after each test that nothing is left behind."""

import asyncio
import functools
import gc
import importlib.util
import inspect
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from pytest_asyncio import is_async_test

# Set by CI: what a developer's machine may lack must be there, so nothing is skipped unseen.
REQUIRE_ALL = os.environ.get("AIOSOCKETSERVER_REQUIRE_ALL", "") not in ("", "0")


def missing(what: str) -> NoReturn:
    """Skip the running test because of *what*, or fail it where nothing may be missing."""
    if REQUIRE_ALL:
        pytest.fail(f"{what}, and AIOSOCKETSERVER_REQUIRE_ALL is set", pytrace=False)
    pytest.skip(what)


@pytest.fixture
def require_program() -> Callable[[str], str]:
    """A function that returns the path of a program, or skips the test that needs it."""

    def find(name: str) -> str:
        return shutil.which(name) or missing(f"the program {name!r} is not installed")

    return find


@pytest.fixture
def skip_for_want_of() -> Callable[[str], None]:
    """A function that skips the running test, or fails it where nothing may be missing."""
    return missing


# --- the loop matrix ---


def _uvloop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        missing("uvloop is not installed")
    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}

if sys.version_info >= (3, 12):

    def _eager() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    LOOPS["eager"] = _eager

LOOPS["uvloop"] = _uvloop


# The test files of --part.
_part = pytest.StashKey[set[Path]]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job ignores Ctrl-C, and so would each program that a test starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if part := config.getoption("--part"):
        k, n = _read_part(part)
        config.stash[_part] = set(_test_files(config)[k - 1 :: n])


def _read_part(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise pytest.UsageError(f"--part: it must be K/N with 1 <= K <= N, and is {text!r}")
    return int(k), int(n)


def _test_files(config: pytest.Config) -> list[Path]:
    """The files that have a test to run, in order, as far as options tell before they are read."""
    ignored = [Path(path).absolute() for path in config.getoption("ignore") or ()]
    files = set[Path]()
    for name in config.args:
        path = Path(name.partition("::")[0]).absolute()
        files.update(path.rglob("test_*.py") if path.is_dir() else [path])
    if config.getoption("--only-async"):
        files = {path for path in files if "async def test" in path.read_text()}
    return sorted(p for p in files if not any(p.is_relative_to(each) for each in ignored))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # A file of another part is not even imported: importing them all takes as long as most parts.
    chosen = config.stash.get(_part, None)
    if chosen is None or collection_path.is_dir() or collection_path in chosen:
        return None
    return True


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loops",
        default=",".join(LOOPS),
        help="run tests on these event loops only (default: %(default)s)",
    )
    parser.addoption(
        "--only-on-loops",
        action="store_true",
        help="leave out the tests that run on no event loop of --loops, nor start a program on one",
    )
    parser.addoption(
        "--only-async",
        action="store_true",
        help="leave out the tests that are no coroutines",
    )
    parser.addoption(
        "--part",
        metavar="K/N",
        help="run the K-th of N parts, which are whole files, one after another to each part",
    )
    parser.addoption(
        "--grace",
        type=float,
        default=2.0,
        help="seconds for a task, a thread or a descriptor to end after its test (%(default)s)",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    names = str(config.getoption("--loops")).split(",")
    if unknown := set(names) - LOOPS.keys():
        raise pytest.UsageError(f"--loops: {sorted(unknown)} not among {list(LOOPS)}")
    return {name: LOOPS[name] for name in names}


def _loops_of(item: pytest.Item) -> set[str]:
    """The loops on which a test that is no coroutine starts programs or servers of its own."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return {value for value in parameters if isinstance(value, str) and value in LOOPS}


def _may_run(item: pytest.Item, chosen_loops: set[str]) -> bool:
    # pytest-asyncio has seen to the loops of async tests. One that needs two loops runs with
    # each of them, or it would run with none where every loop has a run of its own.
    loops = _loops_of(item)
    return is_async_test(item) or not loops or not loops.isdisjoint(chosen_loops)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen_loops = set(str(config.getoption("--loops")).split(","))
    kept = [item for item in items if _may_run(item, chosen_loops)]
    if config.getoption("--only-on-loops"):
        kept = [item for item in kept if is_async_test(item) or _loops_of(item)]
    if config.getoption("--only-async"):
        kept = [item for item in kept if is_async_test(item)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


# --- a test that hangs ---


def _time_limit(item: pytest.Item) -> float | None:
    """The limit that pytest-timeout has for *item*, in seconds."""
    if marker := item.get_closest_marker("timeout"):
        limit = marker.args[0] if marker.args else marker.kwargs.get("timeout")
    else:
        limit = item.config.getoption("--timeout") or item.config.getini("timeout")
    return float(limit) if limit else None


def _bounded(
    test: Callable[..., Awaitable[None]], limit: float
) -> Callable[..., Coroutine[Any, Any, None]]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(limit):
            await test(*args, **kwargs)

    return run


def pytest_itemcollected(item: pytest.Item) -> None:
    # pytest-timeout's stacks end where the loop waits for events, and it ends the whole run.
    # A limit inside the loop, a little earlier, shows the `await` that hangs, and the run goes on.
    if (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(item.obj)
        and (limit := _time_limit(item))
    ):
        item.obj = _bounded(item.obj, 0.8 * limit)


# --- nothing is left behind ---


def pytest_collection_finish() -> None:
    # libuv's first loop opens a pipe for signals that stays open as long as the process lives.
    if importlib.util.find_spec("uvloop"):
        _uvloop().close()
    # All that exists now stays for the whole run: out of the collector's sight, so that collecting
    # after each test takes one millisecond, not thirty.
    gc.collect()
    gc.freeze()


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


_DESCRIPTORS = Path("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd")


def _open_descriptors() -> set[tuple[int, int, int]]:
    """Number, device and inode: a number that was closed and given again is another one."""
    found = set()
    for name in os.listdir(_DESCRIPTORS):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the descriptor that listed the directory
        found.add((int(name), status.st_dev, status.st_ino))
    return found


def _describe(descriptor: int) -> str:
    try:
        return f"{descriptor} -> {os.readlink(_DESCRIPTORS / str(descriptor))}"
    except OSError:
        return str(descriptor)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def loop_errors() -> Iterator[list[logging.LogRecord]]:
    """What the event loop reported as an error: a lost task's exception, a failed callback.

    A test that provokes such an error asserts on this list and clears it; anything left fails it.
    """
    handler = _Records()
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _nothing_left_in_process(
    request: pytest.FixtureRequest, loop_errors: list[logging.LogRecord]
) -> Iterator[None]:
    """Fails a test that leaves a descriptor or a thread, or an error that only the loop saw.

    It is the outermost fixture: the event loop is made after it and closed before its check.
    """
    threads = set(threading.enumerate())
    descriptors = _open_descriptors()
    yield
    if request.node.stash.get(_failed, False):
        return  # its traceback keeps alive whatever the test had open
    gc.collect()  # a resource warning belongs to the test that caused it
    gc.freeze()  # what pytest keeps of each test would make the next collection longer

    deadline = time.monotonic() + request.config.option.grace
    for thread in set(threading.enumerate()) - threads:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
    # Nothing tells when another thread closes a descriptor, hence the polling.
    while _open_descriptors() - descriptors and time.monotonic() < deadline:
        time.sleep(0.01)

    left = [
        f"thread {thread.name}"
        for thread in set(threading.enumerate()) - threads
        if not thread.daemon
    ]
    left += [
        f"descriptor {_describe(number)}"
        for number, _, _ in sorted(_open_descriptors() - descriptors)
    ]
    left += [f"error seen by the loop only: {record.getMessage()}" for record in loop_errors]
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
async def _no_task_left_on_loop(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    if request.node.stash.get(_failed, False):
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + request.config.option.grace
    while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
        remaining = deadline - loop.time()
        if remaining <= 0:
            tasks = "\n  ".join(repr(task) for task in left)
            pytest.fail(f"tasks left behind:\n  {tasks}", pytrace=False)
        await asyncio.wait(left, timeout=remaining)


@pytest.fixture(autouse=True)
def _nothing_left_on_loop(request: pytest.FixtureRequest, _nothing_left_in_process: None) -> None:
    # Asked for by name, since an autouse async fixture would give sync tests a loop too.
    if is_async_test(request.node):
        request.getfixturevalue("_no_task_left_on_loop")

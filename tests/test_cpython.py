"""What the package uses of CPython that may change: each is there, and used in one file."""

import asyncio
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import aiosocketserver
from aiosocketserver import cpython

PACKAGE = Path(aiosocketserver.__file__).parent
PRIVATE = re.compile(
    r"\b(?:asyncio(?:\.\w+)*|threading|atexit|sys|executor|task|signal|logging)\._(?!_)\w+"
    r"|\bsys\.getrefcount\b|\"_must_cancel\""
)
# Documented, though it begins with an underscore.
DOCUMENTED = {"sys._getframe"}


FILES = [*PACKAGE.rglob("*.py"), *(PACKAGE / "compat").resolve().rglob("*.py")]


@pytest.mark.parametrize("path", sorted(set(FILES)), ids=str)
def test_a_private_name_of_cpython_is_used_in_one_file(path: Path) -> None:
    if path.name != "cpython.py":
        assert set(PRIVATE.findall(path.read_text())) <= DOCUMENTED


@pytest.mark.parametrize(
    "name",
    [
        "asyncio._get_running_loop",
        "asyncio._set_running_loop",
        "asyncio.tasks._enter_task",
        "asyncio.tasks._leave_task",
        "atexit._run_exitfuncs",
        "sys._current_frames",
        "sys.getrefcount",
        "threading._newname",
        "threading._register_atexit",
        "threading._shutdown",
        "threading._shutdown.__code__",
    ],
)
def test_a_name_is_there(name: str) -> None:
    thing: object = sys.modules[name.partition(".")[0]]
    for part in name.split(".")[1:]:
        assert hasattr(thing, part), f"{name} has gone from Python {sys.version}"
        thing = getattr(thing, part)


async def test_attributes_of_tasks_are_there() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert hasattr(task, cpython.MUST_CANCEL)
    assert hasattr(task, "_log_destroy_pending")
    assert hasattr(asyncio.get_running_loop().create_future(), "_asyncio_future_blocking")
    cpython.leave_behind(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_threads_of_an_executor() -> None:
    with ThreadPoolExecutor(1) as executor:
        thread = executor.submit(threading.current_thread).result()
        assert set(cpython.threads_of(executor)) == {thread}


def test_the_loop_that_a_thread_has_set() -> None:
    def look() -> tuple[object, object, object]:
        before = cpython.event_loop_set_here()
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        found = cpython.event_loop_set_here()
        asyncio.set_event_loop(None)
        loop.close()
        return before, found, loop

    with ThreadPoolExecutor(1) as executor:
        before, found, loop = executor.submit(look).result()
    assert before is None
    assert found is loop

"""Programs that use a library, each run in an interpreter of its own, with compat or without."""

import asyncio
import contextlib
import gc
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from tests.compat_support import BOUND, serving

# The measure, and the two loops of compat.
ENGINES = ("socketserver", "asyncio", "uvloop")


def run_program(program: FunctionType, engine: str) -> None:
    """Call a function of a test module where all its imports come after install().

    Fails where it raises, where anything is reported on stderr as an exception, and
    where a thread or a descriptor is left.
    """
    command = [sys.executable, "-X", "dev"]
    if engine != "socketserver":
        command += ["-m", "aiosocketserver.compat", "--loop", engine]
    path = os.path.relpath(os.path.splitext(program.__code__.co_filename)[0])
    command += ["-m", "tests.library_support", path.replace(os.sep, "."), program.__name__]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    # A socket that is not closed, say. (Python 3.12 warns of forks beside threads.)
    assert "ResourceWarning" not in done.stderr


@contextlib.contextmanager
def running(server: Any) -> Iterator[Any]:
    """`compat_support.serving`, of a server that must be on the engine that was asked for."""
    assert_on_engine(server)
    with serving(server):
        yield server


def assert_on_engine(server: Any) -> None:
    """A library's server runs on ours if this interpreter was started with compat."""
    # Imported by tests.compat_support in any case.
    from aiosocketserver.compat.engine import Engine

    installed = importlib.import_module("socketserver").__name__ != "socketserver"
    assert isinstance(server, Engine) == installed


def _descriptors() -> set[str]:
    gc.collect()
    return set(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd"))


def main(module: str, name: str) -> None:
    """Call the function, and look at what it has left."""
    if os.environ.get("AIOSOCKETSERVER_LOOP") == "uvloop":
        # The first one opens a pipe for signals, for good.
        importlib.import_module("uvloop").new_event_loop().close()
    program = getattr(importlib.import_module(module), name)
    descriptors = _descriptors()
    program()
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        thread.join(BOUND)
        assert not thread.is_alive(), f"left: {thread}"
    assert _descriptors() <= descriptors
    assert asyncio._get_running_loop() is None


if __name__ == "__main__":
    main(*sys.argv[1:])

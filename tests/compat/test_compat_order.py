"""A class made of compat's mix-ins and servers looks up each name where socketserver's would."""

import json
import os
import socketserver
import subprocess
import sys
from pathlib import Path

import pytest

from aiosocketserver import compat
from aiosocketserver.compat.engine import Engine
from tests import mixed_classes
from tests.compat_support import LOOP_NAMES

ROOT = Path(__file__).resolve().parents[2]

# Which of socketserver's classes each of compat's stands for.
STANDS_FOR: dict[type, type] = {
    getattr(compat, name): getattr(socketserver, name)
    for name in socketserver.__all__
    if not name.endswith("Handler")
}
STANDS_FOR[Engine] = socketserver.BaseServer


def names_of(cls: type) -> set[str]:
    kept = {"__dict__", "__weakref__", "__module__", "__doc__", "__static_attributes__"}
    kept |= {"__firstlineno__", "__annotations__"}
    return {name for base in cls.__mro__[:-1] for name in vars(base)} - kept


def definers(cls: type, names: set[str]) -> dict[str, int]:
    """The place in the order of lookup at which each name is found, by socketserver's classes."""
    order: list[type] = []
    found: dict[str, int] = {}
    for base in cls.__mro__[:-1]:
        theirs = STANDS_FOR.get(base, base)
        if theirs not in order:
            order.append(theirs)
        for name in names & set(vars(base)):
            found.setdefault(name, order.index(theirs))
    return found


THEIRS = mixed_classes.classes(mixed_classes.MODULES["socketserver"])


@pytest.mark.parametrize("module", ["compat", "halves"])
@pytest.mark.parametrize("shape", THEIRS)
def test_each_name_is_found_where_socketserver_finds_it(shape: str, module: str) -> None:
    theirs = THEIRS[shape]
    ours = mixed_classes.classes(mixed_classes.MODULES[module])[shape]
    assert issubclass(ours, Engine)
    names = names_of(theirs)
    assert {"process_request", "server_close", "timeout", "block_on_close"} <= names
    assert definers(ours, names) == definers(theirs, names)


def places(module: str, loop: str = "asyncio") -> dict[str, str]:
    """Where the handlers of each class run, in a process of its own, for it forks."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.mixed_classes", module],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "AIOSOCKETSERVER_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    found = places("socketserver")
    assert set(found.values()) == {"serving thread", "another thread", "child"}
    return found


@pytest.mark.parametrize("loop", LOOP_NAMES)
@pytest.mark.parametrize("module", ["compat", "halves"])
def test_handlers_run_where_socketserver_has_them_run(
    module: str, loop: str, expected: dict[str, str]
) -> None:
    found = places(module, loop)
    assert {each: found[each] for each in expected} == expected

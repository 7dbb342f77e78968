"""The compiled core and the one in Python: which runs, what is built, and that nobody can tell."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import aiosocketserver
from aiosocketserver.sockets.traffic import PythonTraffic, Traffic
from aiosocketserver.sockets.waiter import PythonWaiter, Waiter

Done: TypeAlias = "subprocess.CompletedProcess[str]"

ROOT = Path(__file__).resolve().parent.parent
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))
BUILT = ROOT / "aiosocketserver" / f"_native{SUFFIX}"
TELLS = (
    "import aiosocketserver as a; print(a.native, *(c.__module__ for c in a.StreamSocket.__mro__))"
)


@pytest.fixture(autouse=True)
def extension(skip_for_want_of: Callable[[str], None]) -> Path:
    """Where it is, in this checkout; without it there is nothing to compare."""
    if not BUILT.exists():
        skip_for_want_of("the core is not compiled: make native")
    return BUILT


def python(*arguments: str, folder: Path = ROOT, **variables: Any) -> Done:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AIOSOCKETSERVER_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(folder), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


# Which one runs


def test_all_of_it_is_of_one_kind() -> None:
    if aiosocketserver.native:
        assert Waiter is not PythonWaiter
        assert Traffic is not PythonTraffic
    else:
        assert Waiter is PythonWaiter
        assert Traffic is PythonTraffic


@pytest.mark.parametrize(
    ("variables", "native"),
    [({}, True), ({"AIOSOCKETSERVER_NATIVE": "1"}, True), ({"AIOSOCKETSERVER_NATIVE": "0"}, False)],
)
def test_the_variable_chooses(variables: dict[str, Any], native: bool) -> None:
    told = python("-c", TELLS, **variables).stdout.split()
    assert told[0] == str(native)
    assert ("aiosocketserver._native" in told) == native
    assert ("aiosocketserver.sockets.stream_fields" in told) != native


def test_another_word_is_an_error_that_names_what_is_right() -> None:
    told = python("-c", TELLS, AIOSOCKETSERVER_NATIVE="yes").stderr
    assert "AIOSOCKETSERVER_NATIVE must be 1 for the compiled core, or 0" in told
    assert "'yes'" in told


def copied(folder: Path, *, sources: bool) -> Path:
    """The package, and what it is built of, elsewhere."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "aiosocketserver", folder / "aiosocketserver", ignore=ignored)
    if sources:
        shutil.copytree(ROOT / "native", folder / "native")
    return folder


def test_without_it_python_runs_unless_it_was_asked_for(tmp_path: Path) -> None:
    folder = copied(tmp_path, sources=True)
    assert python("-c", TELLS, folder=folder).stdout.startswith("False ")
    told = python("-c", TELLS, folder=folder, AIOSOCKETSERVER_NATIVE="1").stderr
    assert "AIOSOCKETSERVER_NATIVE=1, and the compiled core is not installed" in told


def test_one_that_was_built_of_other_sources_is_refused(tmp_path: Path, extension: Path) -> None:
    folder = copied(tmp_path, sources=True)
    shutil.copy(extension, folder / "aiosocketserver")
    assert python("-c", TELLS, folder=folder).stdout.startswith("True ")
    with (folder / "native" / "native.h").open("a") as file:
        file.write("\n")
    told = python("-c", TELLS, folder=folder).stderr
    assert "the compiled core was built of other sources than those in" in told
    assert "run `make native` there, or set AIOSOCKETSERVER_NATIVE=0" in told
    assert python("-c", TELLS, folder=folder, AIOSOCKETSERVER_NATIVE="0").returncode == 0
    # Where it is installed there are no sources, and nothing is compared.
    shutil.rmtree(folder / "native")
    assert python("-c", TELLS, folder=folder).stdout.startswith("True ")


# What is built


def build(folder: Path, **variables: Any) -> Done:
    return python("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), **variables)


def test_a_wheel_has_the_compiled_core(tmp_path: Path) -> None:
    done = build(tmp_path, AIOSOCKETSERVER_BUILD="native")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-none-any" not in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        found = [name for name in names if name.endswith((".so", ".c", ".h"))]
        # One, also where those of other versions lie beside the sources.
        assert found == [f"aiosocketserver/_native{SUFFIX}"]
        content = archive.read(found[0])
        assert os.fsencode(ROOT) not in content
        archive.extractall(tmp_path / "installed")
    told = python("-c", TELLS, folder=tmp_path / "installed", AIOSOCKETSERVER_NATIVE="1")
    assert told.stdout.startswith("True "), told.stderr


@pytest.mark.parametrize(
    "variables",
    [{"CC": "false"}, {"CFLAGS": "-nostdinc"}, {"AIOSOCKETSERVER_BUILD": "pure"}],
    ids=["no compiler", "no headers", "pure"],
)
def test_without_a_compiler_the_wheel_is_for_any_machine(
    variables: dict[str, Any], tmp_path: Path
) -> None:
    done = build(tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    told = "the core is not compiled, and runs in Python"
    assert (told in done.stdout + done.stderr) == ("AIOSOCKETSERVER_BUILD" not in variables)


def test_what_was_asked_for_and_cannot_be_built_is_an_error(tmp_path: Path) -> None:
    done = build(tmp_path, AIOSOCKETSERVER_BUILD="native", CC="false")
    assert done.returncode != 0
    assert list(tmp_path.glob("*.whl")) == []
    done = build(tmp_path, AIOSOCKETSERVER_BUILD="compiled")
    assert "AIOSOCKETSERVER_BUILD must be native or pure, and is 'compiled'" in done.stderr


# That nobody can tell


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_every_call_has_the_same_outcome(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    seeds = [str(seed) for seed in range(120)]
    told = []
    for native in "01":
        done = python("-m", "tests.in_step", loop, *seeds, AIOSOCKETSERVER_NATIVE=native)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.splitlines())
    for number, (ours, theirs) in enumerate(zip(*told, strict=True)):
        assert ours == theirs, "\n".join(told[0][number - 5 : number])

"""The checks of conftest.py: each way to leave something behind fails the test that does it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent

SAMPLES = """
import asyncio
import os
import socket
import threading

kept = []
released = threading.Event()


async def test_clean():
    await asyncio.to_thread(int)
    process = await asyncio.create_subprocess_exec("true")
    await process.wait()
    kept.append(asyncio.create_task(asyncio.sleep(0)))  # a straggler: ends by itself


def test_clean_sync():
    pass


async def test_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))


async def test_descriptor():
    kept.append(os.pipe())


def test_descriptor_sync():
    kept.append(os.pipe())


async def test_thread():
    thread = threading.Thread(target=released.wait)
    thread.start()
    kept.append(thread)


def test_release_threads():
    released.set()
    for thing in kept:
        if isinstance(thing, threading.Thread):
            thread.join()


async def test_lost_exception():
    async def fail():
        raise ValueError("nobody asks for it")

    task = asyncio.create_task(fail())
    await asyncio.wait([task])


async def test_callback():
    def fail():
        raise ValueError("nobody sees it")

    asyncio.get_running_loop().call_soon(fail)
    await asyncio.sleep(0)


async def test_provoked_error(loop_errors):
    asyncio.get_running_loop().call_exception_handler({"message": "provoked"})
    assert [record.getMessage() for record in loop_errors] == ["provoked"]
    loop_errors.clear()


async def test_program(require_program):
    require_program("there-is-no-such-program")


async def test_unclosed_socket():
    def leave():
        sock = socket.socket()
        sock_in_cycle = [sock]
        sock_in_cycle.append(sock_in_cycle)

    leave()


async def test_after_all_that():
    pass
"""


def run_samples(folder: Path, *arguments: str, require_all: bool = False) -> dict[str, list[str]]:
    """Run pytest on SAMPLES: "passed" or the message, once for each loop, by name of the test."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    (folder / "test_samples.py").write_text(SAMPLES)
    report = folder / "report.xml"
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "--grace", "0.2"]
    options += ["-p", "no:cacheprovider", "--junitxml", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments, str(folder)],
        cwd=folder,
        env=os.environ | {"AIOSOCKETSERVER_REQUIRE_ALL": "1" if require_all else ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        messages = [child.get("message", "") for child in case if child.tag != "system-err"]
        name = case.get("name", "").partition("[")[0]
        found.setdefault(name, []).append(" ".join(messages) or "passed")
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return run_samples(tmp_path_factory.mktemp("samples"))


def test_async_tests_run_on_every_loop_and_sync_tests_once(outcomes: dict[str, list[str]]) -> None:
    loops = 3 if sys.version_info >= (3, 12) else 2
    assert outcomes["test_clean"] == ["passed"] * loops
    assert outcomes["test_clean_sync"] == ["passed"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_task", "tasks left behind"),
        ("test_descriptor", "left behind.*descriptor .*pipe"),
        ("test_descriptor_sync", "left behind.*descriptor .*pipe"),
        ("test_thread", "left behind.*thread "),
        ("test_lost_exception", "left behind.*Task exception was never retrieved"),
        ("test_callback", "left behind.*Exception in callback"),
        ("test_unclosed_socket", "ResourceWarning|PytestUnraisableExceptionWarning"),
    ],
)
def test_what_is_left_behind_fails_its_test(
    outcomes: dict[str, list[str]], name: str, message: str
) -> None:
    for outcome in outcomes[name]:
        assert re.search(message, outcome, re.DOTALL), outcome


def test_an_error_of_the_loop_that_a_test_expects_is_no_failure(
    outcomes: dict[str, list[str]],
) -> None:
    assert set(outcomes["test_provoked_error"]) == {"passed"}


def test_failures_do_not_spread(outcomes: dict[str, list[str]]) -> None:
    assert set(outcomes["test_after_all_that"]) == {"passed"}


def test_a_missing_program_skips_a_test_or_fails_it(
    outcomes: dict[str, list[str]], tmp_path: Path
) -> None:
    assert all(
        outcome == "the program 'there-is-no-such-program' is not installed"
        for outcome in outcomes["test_program"]
    )
    for outcome in run_samples(tmp_path, "-k", "test_program", require_all=True)["test_program"]:
        assert "AIOSOCKETSERVER_REQUIRE_ALL is set" in outcome


def test_parts_are_all_of_it_and_each_test_once(tmp_path: Path) -> None:
    found = []
    for part in ("1/2", "2/2"):
        folder = tmp_path / part[0]
        folder.mkdir()
        for number in range(3):
            (folder / f"test_extra_{number}.py").write_text(f"def test_extra_{number}(): pass\n")
        found.append(set(run_samples(folder, "--part", part, "-k", "extra or clean")))
    first, second = found
    assert first == {"test_extra_0", "test_extra_2"}
    assert second == {"test_extra_1", "test_clean", "test_clean_sync"}


ON_LOOP = """
import pytest

@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_on_loop(loop):
    assert loop == "uvloop"

@pytest.mark.parametrize("loop", ["asyncio"])
@pytest.mark.parametrize("outer", ["uvloop"])
def test_on_two_loops(loop, outer):
    pass
"""


@pytest.mark.parametrize(
    ("option", "chosen"),
    [
        (None, {"test_clean", "test_clean_sync", "test_on_loop", "test_on_two_loops"}),
        ("--only-on-loops", {"test_clean", "test_on_loop", "test_on_two_loops"}),
        ("--only-async", {"test_clean"}),
    ],
)
def test_only_tests_on_the_chosen_loops(
    option: str | None, chosen: set[str], tmp_path: Path
) -> None:
    (tmp_path / "test_loops.py").write_text(ON_LOOP)
    options = ["--loops", "uvloop", "-k", "test_clean or test_on_"]
    found = run_samples(tmp_path, *options, *filter(None, [option]))
    assert found == {name: ["passed"] for name in chosen}

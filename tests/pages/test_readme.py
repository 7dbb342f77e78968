"""README.md does what it says: its quick start word for word, and every other block."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.page_support import ROOT, Page
from tests.port_support import free_port

README = Page("README.md")
TIMEOUT = 20


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell's, where python3 is this Python and pip builds with what is installed for the tests.

    pip would else download the build backend; all that the commands say happens as it says.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    python3 = programs / "python3"
    python3.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python3.chmod(0o755)
    backend = subprocess.run(
        [sys.executable, "-c", "import hatchling; print(*hatchling.__path__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(backend).parent),
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        # pip's name for it is a negative, and so 0 is what turns the isolation off.
        "PIP_NO_BUILD_ISOLATION": "0",
    }


FIRST, ONE_LINE = README.blocks("python", "")


@README.executes("Quick start")
@README.executes("", 1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_quick_start_works_word_for_word(
    number: signal.Signals,
    environment: dict[str, str],
    tmp_path: Path,
    require_program: Callable[[str], str],
) -> None:
    require_program("nc")
    commands, talk = README.blocks("sh", "Quick start")
    *install, start = commands.splitlines()
    port = free_port()
    server, talk = FIRST.replace("9999", str(port)), talk.replace("9999", str(port))

    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, checkout)
    for name in ("aiosocketserver", "compat", "native"):
        shutil.copytree(
            ROOT / name,
            checkout / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    installing = ["sh", "-e", "-c", "\n".join(install)]
    subprocess.run(installing, cwd=checkout, env=environment, check=True)
    del environment["PYTHONPATH"]

    # In another folder, so that what was installed is what is imported.
    (tmp_path / "server.py").write_text(server)
    shell = f". {checkout}/venv/bin/activate\nexec {start}"
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(
            subprocess.Popen(
                ["sh", "-e", "-c", shell],
                cwd=tmp_path,
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(serving.kill)
        assert serving.stderr is not None
        assert serving.stderr.readline().startswith("serving Echo on tcp://127.0.0.1:")
        client = stack.enter_context(
            subprocess.Popen(
                ["sh", "-c", f"exec {talk}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        stack.callback(client.kill)
        assert client.stdin is not None
        assert client.stdout is not None
        for line in ("one\n", "two\n"):
            client.stdin.write(line)
            assert client.stdout.readline() == line
        # The client stays, and has nothing to ask for.
        serving.send_signal(number)
        _, errors = serving.communicate(timeout=TIMEOUT)
        assert errors.splitlines() == [
            f"{number.name}: draining",
            "drained: 1 requests finished, 0 cut, 0 abandoned",
        ]
        assert serving.returncode == 0


@README.executes("", 0)
def test_the_two_commands_are_there(require_program: Callable[[str], str]) -> None:
    # CI runs `make test`, and test_examples.py what `make serve` runs.
    for command in README.blocks("sh", "")[0].splitlines():
        make, target = command.partition("#")[0].split()
        plan = [require_program(make), "--dry-run", target]
        subprocess.run(plan, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


@README.executes("", 2)
def test_one_line_makes_a_program_run_on_the_loop() -> None:
    # What the line does is in docs/migration.md, and so in test_migration_page.py.
    assert ONE_LINE in Page("docs/migration.md").blocks("python", "One line changed")[0]


@README.executes("", 3)
def test_a_program_that_exists_needs_no_change() -> None:
    migration = Page("docs/migration.md")
    [command] = README.blocks("sh", "")[1:]
    assert command in migration.blocks("sh", "No line changed")[0]

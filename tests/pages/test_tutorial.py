"""docs/tutorial.md, word for word: every file is written, every command is typed."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.page_support import ROOT, Page
from tests.walk_support import Walk

TUTORIAL = Page("docs/tutorial.md")


@pytest.mark.timeout(240)
@TUTORIAL.executes()
def test_the_tutorial_word_for_word(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    for program in ("nc", "curl"):
        require_program(program)
    copy_of_the_repository(tmp_path / "aiosocketserver")
    folder = tmp_path / "store"
    folder.mkdir()
    with Walk(TUTORIAL, folder, variables_of_a_newcomer(tmp_path)) as walk:
        walk.follow()


def copy_of_the_repository(folder: Path) -> None:
    """What pip needs of it."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, folder)
    made = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("aiosocketserver", "compat", "native"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=made)


def variables_of_a_newcomer(home: Path) -> dict[str, str]:
    """Those of a shell where python3 is this Python, and pip finds what is installed for it.

    pip would else download that; all that the commands say happens as they say.
    """
    programs = home / "bin"
    programs.mkdir()
    python3 = programs / "python3"
    installed = sysconfig.get_path("purelib")
    packages = f"venv/lib/python{sysconfig.get_python_version()}/site-packages"
    python3.write_text(
        "#!/bin/sh -e\n"
        f'"{os.path.realpath(sys.executable)}" "$@"\n'
        f'echo "{installed}" >"{packages}/of-the-tests.pth"\n'
    )
    python3.chmod(0o755)
    return {
        "HOME": str(home),
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "NO_COLOR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        # pip's name for it is a negative, and so 0 is what turns the isolation off.
        "PIP_NO_BUILD_ISOLATION": "0",
        # A plugin that is installed for the tests only, and has much to say.
        "PYTEST_ADDOPTS": "-p no:asyncio",
    }

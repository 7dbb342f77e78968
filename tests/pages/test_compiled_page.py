"""docs/compiled.md: its commands, typed."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

from aiosocketserver import compiled
from tests.page_support import ROOT, Page, entries

PAGE = Page("docs/compiled.md")


@PAGE.executes("Which one runs")
def test_the_version_tells_which_core_runs(skip_for_want_of: Callable[[str], None]) -> None:
    if importlib.util.find_spec("aiosocketserver._native") is None:
        skip_for_want_of("the core is not compiled: make native")
    [block] = PAGE.all_blocks
    for entry in entries(block):
        assert entry.command is not None
        command = entry.command.replace(
            "aiosocketserver --", f"{sys.executable} -m aiosocketserver --"
        )
        told = subprocess.run(
            ["sh", "-c", command],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != compiled.VARIABLE},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        # The name of the program is __main__.py, or what click makes of it.
        assert told.split(" version ")[1].splitlines() == [entry.lines[0].split(" version ")[1]]

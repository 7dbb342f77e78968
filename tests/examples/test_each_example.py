"""What holds for every program of examples/."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy_support import ROOT
from tests.example_support import TIMEOUT, problem

PROGRAMS = sorted(
    path.relative_to(ROOT / "examples")
    for path in (ROOT / "examples").rglob("*.py")
    if "__main__" in path.read_text()
)


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_it_is_short_and_says_how_to_start_it(path: Path) -> None:
    text = (ROOT / "examples" / path).read_text()
    # Two have a protocol and a store in one file, and one has two ways to move bytes.
    longer = {"line_kv.py": 170, "dns_forwarder.py": 185, "tcp_proxy.py": 155}
    longest = longer.get(path.name, 150)
    assert len(text.splitlines()) < longest
    assert f"python examples/{path}" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_it_tells_its_arguments(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, f"examples/{path}", "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""


@pytest.mark.parametrize("name", ["chat/server", "echo", "upper", "web/web_server"])
def test_it_says_in_one_line_why_it_cannot_serve(name: str) -> None:
    assert problem(name, "tcp://127.0.0.1:x").startswith("cannot bind to 'tcp://127.0.0.1:x'")

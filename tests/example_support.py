"""A program of examples/ as a process, for tests that talk to it as its docstring says."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from tests.deploy_support import ROOT, SERVING, Command

TIMEOUT = 20
LOOPS = ["asyncio", "uvloop"]
CALL_CENTRES = [*LOOPS, "legacy"]


@contextlib.contextmanager
def running(
    name: str, *arguments: str, folder: Path, loop: str | None = None, code: int = 0
) -> Generator[Command]:
    """Run `examples/NAME.py` until the body ends, and see that it ends well.

    At the latest SIGTERM ends it; then its exit code has to be `code`. `folder` is one
    of the test's own. Without a `loop` it is the program's choice.
    """
    path = [str(ROOT)]
    if loop == "asyncio":
        # To the programs uvloop is not installed.
        hidden = folder / "without-uvloop"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['uvloop'] = None\n")
        path.insert(0, str(hidden))
    process = subprocess.Popen(
        [sys.executable, f"examples/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    program = Command(process)
    try:
        first = program.until(SERVING.pattern).string
        assert loop is None or f", {loop}, " in first
        yield program
        if process.poll() is None:
            assert program.end() == code, program.lines
    finally:
        program.close()


def call_centre(kind: str, folder: Path) -> contextlib.AbstractContextManager[Command]:
    """call_centre.py on a loop, or in threads when `kind` is "legacy"."""
    if kind == "legacy":
        # As a program of socketserver's does, it ends by the signal.
        return running("call_centre", "--legacy", "0", folder=folder, code=-15)
    return running("call_centre", "0", loop=kind, folder=folder)


def problem(name: str, *arguments: str) -> str:
    """What an example says that cannot start: one line on standard error, and exit code 1."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    return done.stderr


def say(command: list[str], text: str) -> str:
    """What a client prints that is told `text` and then the end of its input."""
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout

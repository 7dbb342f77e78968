"""Put each known fault into a copy of the project and see that the tests catch it.

`mutants.py [PATTERN...]`: the faults are tests/mutants/*.mutant; with arguments, only those whose
name contains one of them. `mutants.py --check` only sees that each can be put into the code.

    # A worker whose loop is blocked stays.
    # tests: tests/deploy/test_deploy_workers.py -k hangs
    @@ aiosocketserver/deploy/process.py: Worker.overdue
    -        if started and now - self.seen_at > limits.silence:
    +        if False:

The first line says what the fault is; each `# tests:` line holds arguments for pytest. Lines as in
a diff follow for each change, after the file and the function or class that they are in; what is
there before has to be in it once, with lines of context where need be. No line numbers: a fault
stays where the code is that it breaks, or the function is named that has changed.

A fault in `native/` is compiled, and the tests run on that core; for every other one they run on
the core in Python. In C a place is a function, from the line with its name to the brace at its end.

The same tests run once without any fault as well: tests that fail anyway catch nothing.
"""

import ast
import contextlib
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ROOT / "tests" / "mutants"
AT_ONCE = 2
# Seconds for one pytest run. A fault that makes the tests hang is caught by it; a run without a
# fault that takes so long is a failure.
TIME_LIMIT = 120.0

KILLED, SURVIVED, UNUSABLE = "killed", "SURVIVED", "UNUSABLE"


class UnusableError(Exception):
    """A fault that cannot be put into the code, and why."""


@dataclass
class Change:
    """Lines in one function, class or file that are others with the fault."""

    path: str
    # "" for a file as a whole.
    place: str
    before: list[str]
    after: list[str]

    def make(self, folder: Path) -> None:
        """Make the change in a copy of the project. Raises UnusableError."""
        file = folder / self.path
        if not file.is_file():
            raise UnusableError(f"there is no {self.path}")
        lines = file.read_text().splitlines()
        where = f"{self.place} in {self.path}" if self.place else self.path
        if not self.before:
            raise UnusableError(f"{where}: a change needs a line that is there before")
        size = len(self.before)
        found = {
            n
            for first, end in self._extents(lines)
            for n in range(first, end - size + 1)
            if lines[n : n + size] == self.before
        }
        if len(found) != 1:
            times = "more than once" if found else "no longer"
            raise UnusableError(f"{where} has {times}: {self.before[0].strip()}")
        (at,) = found
        lines[at : at + size] = self.after
        text = "\n".join(lines) + "\n"
        if file.suffix == ".py":
            try:
                ast.parse(text)
            except SyntaxError as error:
                raise UnusableError(f"{where} is no Python with it: {error}") from error
        file.write_text(text)

    def _extents(self, lines: list[str]) -> list[tuple[int, int]]:
        if not self.place:
            return [(0, len(lines))]
        return (extents_in_c if self.path.endswith(".c") else extents)(lines, self.place)


def extents_in_c(lines: list[str], place: str) -> list[tuple[int, int]]:
    """As `extents`, of a function in C."""
    begins = re.compile(rf"\w.*\b{re.escape(place)}\(")
    return [
        (n, lines.index("}", n) + 1)
        for n, line in enumerate(lines)
        if begins.match(line) and not line.endswith(";")
    ]


def extents(lines: list[str], place: str) -> list[tuple[int, int]]:
    """The first line of a function or class, and the line after its last.

    Of all that have the name, as a property and its setter; none if there is none.
    """
    nodes: list[ast.AST] = [ast.parse("\n".join(lines))]
    for name in place.split("."):
        nodes = [
            each
            for node in nodes
            for each in ast.walk(node)
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and each.name == name
            and each is not node
        ]
    found: list[tuple[int, int]] = []
    for node in nodes:
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        assert node.end_lineno is not None
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
        found.append((first, node.end_lineno))
    return found


@dataclass
class Fault:
    name: str
    description: str
    targets: list[str]
    changes: list[Change]

    @classmethod
    def read(cls, path: Path) -> "Fault":
        fault = cls(path.stem, "", [], [])
        for line in path.read_text().splitlines():
            kind, rest = line[:1], line[1:]
            if line.startswith("@@ "):
                file, _, place = line.removeprefix("@@ ").partition(": ")
                fault.changes.append(Change(file, place, [], []))
            elif kind == "#":
                text = rest.strip()
                if text.startswith("tests:"):
                    fault.targets.append(text.removeprefix("tests:").strip())
                else:
                    fault.description += f" {text}" if fault.description else text
            elif fault.changes:
                change = fault.changes[-1]
                if kind != "+":
                    change.before.append(rest)
                if kind != "-":
                    change.after.append(rest)
        return fault

    @property
    def is_native(self) -> bool:
        return any(change.path.startswith("native/") for change in self.changes)

    def put_into(self, folder: Path) -> None:
        """Put the fault into a copy of the project. Raises UnusableError."""
        if not (self.targets and self.description and self.changes):
            raise UnusableError("a description, '# tests:' and a change have to be there")
        for change in self.changes:
            change.make(folder)


@dataclass
class Result:
    verdict: str
    detail: str = ""
    seconds: float = 0.0


def copy_project(folder: Path) -> None:
    """Copy what git tracks or would track, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.rstrip("\0").split("\0"):
        if not os.path.lexists(ROOT / name):
            continue  # deleted, but not yet so in git's index
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)


@contextlib.contextmanager
def copy_of_project() -> Iterator[Path]:
    """A copy, and an end for all that was started with it: a fault may be that it stays."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_project(Path(name))
        try:
            yield Path(name)
        finally:
            for process in processes_of(Path(name)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """Those that `run_tests` has given the packages in *folder*; none without /proc."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"PYTHONPATH={folder}".encode() in environment.read_bytes().split(b"\0"):
                found.append(int(environment.parent.name))
    return found


def compile_native(folder: Path) -> None:
    """Compile the core of a copy of the project. Raises UnusableError."""
    compile_core = runpy.run_path(str(folder / "hatch_build.py"))["compile_core"]
    try:
        with tempfile.TemporaryDirectory() as made:
            shutil.copy(compile_core(folder, Path(made)), folder / "aiosocketserver")
    except Exception as error:
        raise UnusableError(f"it cannot be compiled: {error}") from error


def run_tests(folder: Path, target: str) -> Result:
    """Run pytest with the arguments *target* in the copy; "killed" when a test failed."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--loops", "asyncio,uvloop", "--timeout", "30"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *shlex.split(target)],
        cwd=folder,
        # Before the editable install of the checkout, for programs that the tests start as well.
        env=os.environ | {"PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    start = time.monotonic()
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Result(KILLED, "by the time limit", time.monotonic() - start)
    seconds = time.monotonic() - start
    match process.returncode:
        case 0:
            return Result(SURVIVED, "", seconds)
        case status if status < 0 or status == 1:
            return Result(KILLED, "", seconds)
        case status:  # nothing collected, an import that fails, a wrong argument
            lines = output.strip().splitlines() or [""]
            return Result(UNUSABLE, f"pytest ended with {status}: {lines[-1]}", seconds)


def try_fault(fault: Fault) -> Result:
    with copy_of_project() as folder:
        try:
            fault.put_into(folder)
            if fault.is_native:
                compile_native(folder)
        except UnusableError as error:
            return Result(UNUSABLE, str(error))
        seconds = 0.0
        for target in fault.targets:
            result = run_tests(folder, target)
            seconds += result.seconds
            if result.verdict != SURVIVED:
                return Result(result.verdict, result.detail, seconds)
        return Result(SURVIVED, "", seconds)


def try_without_fault(target: str, native: bool) -> Result:
    with copy_of_project() as folder:
        if native:
            compile_native(folder)
        return run_tests(folder, target)


def check(faults: list[Fault]) -> int:
    """See that each fault can be put into the code; no tests are run."""
    unusable = 0
    for fault in faults:
        with tempfile.TemporaryDirectory() as name:
            for change in fault.changes:
                copy = Path(name, change.path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / change.path).is_file() and not copy.exists():
                    shutil.copy(ROOT / change.path, copy)
            try:
                fault.put_into(Path(name))
            except UnusableError as error:
                unusable += 1
                print(f"{fault.name}: {error}")
    return 1 if unusable else 0


def main(patterns: list[str]) -> int:
    faults = [Fault.read(path) for path in sorted(FAULTS.glob("*.mutant"))]
    if patterns == ["--check"]:
        return check(faults)
    if patterns:
        faults = [fault for fault in faults if any(part in fault.name for part in patterns)]
    if not faults:
        print("no faults found", file=sys.stderr)
        return 1
    targets = sorted({(target, fault.is_native) for fault in faults for target in fault.targets})

    with ThreadPoolExecutor(AT_ONCE) as pool:
        controls = list(pool.map(try_without_fault, *zip(*targets, strict=True)))
        sound = True
        for (target, _), control in zip(targets, controls, strict=True):
            if control.verdict != SURVIVED:
                sound = False
                print(f"fails without any fault: {target} {control.detail}", flush=True)

        width = max(len(fault.name) for fault in faults)
        verdicts = []
        for fault, result in zip(faults, pool.map(try_fault, faults), strict=True):
            verdicts.append(result.verdict)
            what = f"{fault.description} ({result.detail})" if result.detail else fault.description
            print(
                f"{result.verdict:8}  {fault.name:{width}}  {result.seconds:5.1f} s  {what}",
                flush=True,
            )

    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict.lower()}" for verdict in (KILLED, SURVIVED, UNUSABLE)
    )
    print(f"{len(faults)} faults: {counts}")
    return 0 if sound and verdicts.count(KILLED) == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

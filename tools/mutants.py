"""Put each known fault into a copy of the project and see that the tests catch it.

`mutants.py [PATTERN...]`: the faults are unified diffs, tests/mutants/*.patch; with arguments, only
those whose name contains one of them. A patch begins with comment lines:

    # A cancelled recv loses the bytes that had arrived.
    # tests: tests/test_sockets.py -k cancel

The first says what the fault is; each `# tests:` line holds arguments for pytest. The same tests
run once without any fault as well: tests that fail anyway catch nothing.
"""

import contextlib
import os
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


@dataclass
class Fault:
    name: str
    patch: Path
    description: str
    targets: list[str]

    @classmethod
    def read(cls, patch: Path) -> "Fault":
        comments = []
        for line in patch.read_text().splitlines():
            if not line.startswith("#"):
                break
            comments.append(line.lstrip("# "))
        targets = [
            line.removeprefix("tests:").strip() for line in comments if line.startswith("tests:")
        ]
        descriptions = [line for line in comments if not line.startswith("tests:")]
        return cls(patch.stem, patch, " ".join(descriptions), targets)


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
    if not fault.targets or not fault.description:
        return Result(UNUSABLE, "the patch does not begin with a description and '# tests:'")
    with copy_of_project() as folder:
        applied = subprocess.run(
            ["git", "apply", "--recount", str(fault.patch)],
            cwd=folder,
            # Inside a repository, git apply would skip what is not part of it, and succeed.
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode:
            return Result(UNUSABLE, f"does not apply: {applied.stderr.strip().splitlines()[0]}")
        seconds = 0.0
        for target in fault.targets:
            result = run_tests(folder, target)
            seconds += result.seconds
            if result.verdict != SURVIVED:
                return Result(result.verdict, result.detail, seconds)
        return Result(SURVIVED, "", seconds)


def try_without_fault(target: str) -> Result:
    with copy_of_project() as folder:
        return run_tests(folder, target)


def main(patterns: list[str]) -> int:
    faults = [Fault.read(patch) for patch in sorted(FAULTS.glob("*.patch"))]
    if patterns:
        faults = [fault for fault in faults if any(part in fault.name for part in patterns)]
    if not faults:
        print("no faults found", file=sys.stderr)
        return 1
    targets = sorted({target for fault in faults for target in fault.targets})

    with ThreadPoolExecutor(AT_ONCE) as pool:
        without_fault = dict(zip(targets, pool.map(try_without_fault, targets), strict=True))
        sound = True
        for target, control in without_fault.items():
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

"""Run the project's checks: `checks.py lint`, `quick`, `coverage`, `test PYTHON...` or `further`.

`quick` is for a first answer: ruff, codespell, and the coroutine tests, on asyncio and uvloop.

`test` runs the test suite under each interpreter given, the newest first, a few at a time, beside
the linters, the type checkers and the build of the documentation. All tests run on the newest and
nearly all on the oldest; between them coroutine tests, see `test_checks`.

`further` runs tests under interpreters beside those of `test`, with the extra `test` only: all that
they can run on the newest, under coverage, coroutine tests on the others.

`coverage` measures what the tests run on asyncio execute.

Output is kept and printed in a fixed order: the linters first, then the coverage, last each test
run, so that pytest's summary ends it all.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Tests wait half of their time: six of their runs keep two processors busy.
AT_ONCE = 6
# Tests of what no version of Python changes: the benchmarks' tools, the pages and their pictures.
# The packages that they need are installed for the newest Python only.
ONCE = (
    "tests/examples/test_pages_of_examples.py",
    "tests/examples/test_web_page.py",
    "tests/test_benchmarks.py",
    "tests/deploy/test_deploy_examples.py",
    "tests/pages/test_docstrings.py",
    "tests/pages/test_pages.py",
)
NOT_ONCE = tuple(f"--ignore={path}" for path in ONCE)


@dataclass
class Check:
    """One program to run; `output` and `passed` are set when it has run."""

    name: str
    command: list[str]
    variables: dict[str, str] = field(default_factory=dict)
    output: str = ""
    passed: bool = False

    def run(self) -> None:
        start = time.monotonic()
        done = subprocess.run(
            self.command,
            cwd=ROOT,
            env=os.environ | self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        self.output = done.stdout
        self.passed = done.returncode == 0
        verdict = "passed" if self.passed else "FAILED"
        print(f"{self.name}: {verdict} in {time.monotonic() - start:.0f} s", flush=True)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def text_checks() -> list[Check]:
    return [
        Check("ruff check", python("-m", "ruff", "check", "--quiet")),
        Check("ruff format", python("-m", "ruff", "format", "--check", "--quiet")),
        Check("codespell", python("-m", "codespell_lib")),
        Check("faults of mutants.py", python("tools/mutants.py", "--check")),
    ]


def lint_checks() -> list[Check]:
    checks = text_checks()
    # The oldest and the newest version: code may stand behind a test of sys.version_info.
    for version in ("3.11", "3.15"):
        checks += [
            Check(f"mypy for {version}", python("-m", "mypy", "--python-version", version)),
            Check(
                f"pyright for {version}",
                [
                    *python("-m", "pyright", "--pythonpath", sys.executable),
                    "--pythonversion",
                    version,
                ],
            ),
        ]
    return checks


def docs_check() -> Check:
    # Not with --quiet, which keeps --strict from seeing the warnings.
    return Check("docs", python("-m", "mkdocs", "build", "--strict"))


def test_checks(interpreters: list[str]) -> list[Check]:
    """The runs of pytest: the longest first, and short ones last, so that all end together.

    Which tests run where, and why: docs/decisions/0018-which-tests-run-where.md.
    """
    newest, *others = interpreters
    checks = parts(newest, "on asyncio", "--loops=asyncio", *NOT_ONCE, n=AT_ONCE)
    if others:
        checks += parts(others[-1], "on asyncio", "--loops=asyncio", *NOT_ONCE, n=AT_ONCE)
    checks += on_other_loops(newest)
    checks.append(pytest_check(newest, "what runs once", *ONCE))
    return checks + [coroutine_tests(each) for each in others[:-1]]


def further_checks(interpreters: list[str]) -> list[Check]:
    """Coverage is measured here, because from Python 3.14 on that costs little.

    On older ones it takes as long again as the tests.
    """
    newest, *others = interpreters
    checks = measured_checks(newest) + on_other_loops(newest)
    return checks + [coroutine_tests(each) for each in others]


def measured_checks(interpreter: str) -> list[Check]:
    arguments = "--loops=asyncio", *NOT_ONCE
    return parts(interpreter, "core in Python", *arguments, n=AT_ONCE, measured=True)


def on_other_loops(interpreter: str) -> list[Check]:
    arguments = "--loops=eager,uvloop", "--only-on-loops", *NOT_ONCE
    return parts(interpreter, "on other loops", *arguments, n=AT_ONCE)


def coroutine_tests(interpreter: str) -> Check:
    arguments = "--loops=asyncio", "--only-async", *NOT_ONCE
    return pytest_check(interpreter, "coroutines, core in Python", *arguments, native=False)


def quick_checks() -> list[Check]:
    arguments = "--loops=asyncio,uvloop", "--only-async", "--ignore=tests/faults"
    return parts(sys.executable, "on loops", *arguments, n=2 * AT_ONCE)


def parts(
    interpreter: str, name: str, *arguments: str, n: int, measured: bool = False
) -> list[Check]:
    """One run in *n* parts, which may go on at the same time."""
    return [
        pytest_check(
            interpreter, f"{name}, part {k}", *arguments, f"--part={k}/{n}", measured=measured
        )
        for k in range(1, n + 1)
    ]


def pytest_check(
    interpreter: str, name: str, *arguments: str, measured: bool = False, native: bool = True
) -> Check:
    version = subprocess.run(
        [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    coverage = ["-m", "coverage", "run"] if measured else []
    # Without the cache, which runs at the same time must not share.
    options = ["-p", "no:cacheprovider"]
    return Check(
        f"pytest on Python {version}, {name}",
        [interpreter, *coverage, "-m", "pytest", *options, *arguments],
        # What runs in C is not measured.
        {} if native and not measured else {"AIOSOCKETSERVER_NATIVE": "0"},
    )


def cpython_check(interpreters: list[str]) -> Check:
    # Of each interpreter its own tests of servers; `make test-cpython` runs more of them.
    return Check(
        "CPython's tests with compat", python("tools/cpython_tests.py", "--few", *interpreters)
    )


def coverage_checks() -> list[Check]:
    return [
        Check("coverage combine", python("-m", "coverage", "combine", "--quiet")),
        Check("coverage", python("-m", "coverage", "report")),
    ]


def run_all(checks: list[Check]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(Check.run, checks))


def run_measured(tests: list[Check], coverage: list[Check]) -> None:
    subprocess.run(python("-m", "coverage", "erase"), cwd=ROOT, check=True)
    run_all(tests)
    for check in coverage:
        check.run()


def main(arguments: list[str]) -> int:
    lints, tests, coverage = lint_checks(), list[Check](), list[Check]()
    match arguments:
        case ["lint"]:
            run_all(lints)
        case ["quick"]:
            lints, tests = text_checks(), quick_checks()
            run_all(tests + lints)
        case ["test", *interpreters] if interpreters:
            # CPython's come first, so that pytest's summary comes last.
            tests = [cpython_check(interpreters), *test_checks(interpreters)]
            lints.append(docs_check())
            # The tests take longest, so they start first.
            run_all(tests + lints)
        case ["further", *interpreters] if interpreters:
            tests = [cpython_check(interpreters), *further_checks(interpreters)]
            lints, coverage = [], coverage_checks()
            run_measured(tests, coverage)
        case ["coverage"]:
            tests = measured_checks(sys.executable)
            lints, coverage = [], coverage_checks()
            run_measured(tests, coverage)
        case _:
            print(__doc__, file=sys.stderr)
            return 2

    for check in lints + coverage + tests:
        if check.output.strip() and not (check in lints and check.passed):
            print(f"\n=== {check.name} ===\n{check.output.rstrip()}", flush=True)
    failed = [check.name for check in lints + coverage + tests if not check.passed]
    if failed:
        # On standard error, where it does not come between pytest's summary and its reader.
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

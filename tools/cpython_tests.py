"""Run CPython's own tests with compat in the place of socketserver.

`cpython_tests.py [--few] PYTHON...`: under each interpreter, on asyncio and on uvloop, and with
greenlets in the place of threads, every test that passes with the standard library's socketserver
has to pass with compat; `--few` runs the modules that are about servers and nothing else.

A test may fail with compat only if it fails as well with a verbatim copy of that Python's
socketserver.py under compat's name (it compares the names of modules, say). Such a copy is made
for each test that fails, in a temporary folder. Nothing leaves this machine.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 2
# Seconds for one module, and for all of one run. A test that hangs fails it.
MODULE_LIMIT = 120
RUN_LIMIT = 600

FEW = ["test_socketserver", "test_httpservers", "test_wsgiref", "test_xmlrpc"]
ALL = [
    *FEW,
    "test_docxmlrpc",
    "test_logging",
    "test_urllib2_localnet",
    "test_imaplib",
    "test_ssl",
    "test_httplib",
    "test_robotparser",
    "test_pydoc",
]
# regrtest's resource "network" lets these two talk to servers of their own. In the other modules
# it would let some tests out to the Internet.
LOCAL_NETWORK = ["test_socketserver", "test_urllib2_localnet"]

STANDARD, COPY = "socketserver", "a copy of socketserver.py"
LOOPS = ["asyncio", "uvloop"]
# In the place of threads, on asyncio.
GREENLETS = "greenlets"

RUN_COPY = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
import aiosocketserver.compat
sys.modules["socketserver"] = aiosocketserver.compat
del sys.path[0]
sys.argv[0] = "-m"
runpy._run_module_as_main("test")
"""


@dataclass
class Outcome:
    """What became of each test of a run, by its name; and the output, when it did not end well."""

    passed: set[str]
    failed: dict[str, str]
    trouble: str = ""


def command(python: str, way: str, copy: Path) -> list[str]:
    match way:
        case "socketserver":
            return [python, "-m", "test"]
        case "a copy of socketserver.py":
            return [python, "-c", RUN_COPY, str(copy)]
        case "greenlets":
            return [python, "-m", "aiosocketserver.compat", "--greenlets", "-m", "test"]
        case loop:
            return [python, "-m", "aiosocketserver.compat", "--loop", loop, "-m", "test"]


def run(python: str, way: str, modules: list[str], copy: Path, only: Sequence[str] = ()) -> Outcome:
    """Run the modules, or `only` some tests of them."""
    whole = Outcome(set(), {})
    for network in (True, False):
        chosen = [module for module in modules if (module in LOCAL_NETWORK) is network]
        if not chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            options = ["--junit-xml", str(report), "--timeout", str(MODULE_LIMIT)]
            options += ["-u", "network"] if network else []
            for name in only:
                options += ["-m", name]
            one = [*command(python, way, copy), *options, *chosen]
            read(whole, one, report, folder)
    return whole


def read(whole: Outcome, one: list[str], report: Path, folder: str) -> None:
    """Run one command and add what its report says."""
    done = subprocess.run(
        one,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=RUN_LIMIT,
        check=False,
    )
    if not report.exists() or "crashed" in done.stdout:
        whole.trouble += done.stdout
        return
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = case.attrib["name"]
        problem = case.find("failure") if case.find("error") is None else case.find("error")
        if problem is not None:
            whole.failed[name] = problem.text or ""
        elif case.find("skipped") is None and case.attrib.get("result") != "skipped":
            whole.passed.add(name)


def make_copy(python: str, folder: Path) -> None:
    """The interpreter's own socketserver.py as `aiosocketserver.compat`."""
    source = ask(python, "import socketserver; print(socketserver.__file__)")
    package = folder / "aiosocketserver"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(source, package / "compat.py")


def ask(python: str, program: str) -> str:
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def check(python: str, way: str, modules: list[str], standard: Outcome, copy: Path) -> list[str]:
    """What is wrong with compat on one loop, a text for each test; nothing when all is well."""
    ours = run(python, way, modules, copy)
    if ours.trouble:
        return [ours.trouble]
    suspects = sorted(standard.passed - ours.passed)
    if suspects:
        # One that another program on this machine has disturbed passes by itself.
        again = run(python, way, modules, copy, suspects)
        suspects = sorted(set(suspects) - again.passed)
    if not suspects:
        return []
    copied = run(python, COPY, modules, copy, suspects)
    wrong = [name for name in suspects if name not in copied.failed]
    return [f"{name}\n{ours.failed.get(name, 'it was not run')}" for name in wrong]


def check_python(python: str, modules: list[str]) -> bool:
    """Check one interpreter, and print a line for each way."""
    version = ask(python, "import sys; print('%d.%d.%d' % sys.version_info[:3])")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        make_copy(python, copy)
        standard = run(python, STANDARD, modules, copy)
        if standard.trouble or not standard.passed:
            print(f"Python {version}: its own tests did not run:\n{standard.trouble}")
            return False
        well = True
        for way in [*LOOPS, GREENLETS]:
            wrong = check(python, way, modules, standard, copy)
            well = well and not wrong
            verdict = f"{len(wrong)} FAILED" if wrong else "all pass"
            count = len(standard.passed)
            name = "with greenlets" if way == GREENLETS else f"on {way}"
            print(f"Python {version}, compat {name}: {verdict}, of {count} tests", flush=True)
            for text in wrong:
                print(text)
    return well


def main(arguments: list[str]) -> int:
    modules = ALL
    if arguments[:1] == ["--few"]:
        modules = FEW
        arguments = arguments[1:]
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    # Each run has a folder of its own.
    arguments = [os.path.abspath(python) for python in arguments]
    missing = [python for python in arguments if not has_tests(python)]
    for python in missing:
        print(f"{python} was installed without CPython's tests: nothing to run there")
    if missing and os.environ.get("AIOSOCKETSERVER_REQUIRE_ALL", "") not in ("", "0"):
        return 1
    pythons = [python for python in arguments if python not in missing]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        well = list(pool.map(lambda python: check_python(python, modules), pythons))
    return 0 if all(well) else 1


def has_tests(python: str) -> bool:
    program = "import importlib.util; print(importlib.util.find_spec('test.test_socketserver'))"
    return ask(python, program) != "None"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

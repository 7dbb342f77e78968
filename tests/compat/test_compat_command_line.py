"""python -m aiosocketserver.compat: what a program sees, prints and ends with is python's."""

import os
import py_compile
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPAT = ["-m", "aiosocketserver.compat"]
TIMEOUT = 40

SELF_PORTRAIT = """
import sys
main = sys.modules["__main__"]
print(sys.argv, __name__, __file__, __package__, __doc__, sys.path[0], main.__dict__ is globals())
print(type(__loader__).__name__, getattr(__spec__, "name", None), sys.flags.safe_path)
"""


def start(*arguments: str, cwd: Path, text: str = "", **variables: str) -> tuple[int, str, str]:
    """The exit code, the output and the error output of a Python program."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def alike(*arguments: str, cwd: Path, text: str = "") -> tuple[int, str, str]:
    """What python and compat's command line agree on."""
    expected = start(*arguments, cwd=cwd, text=text)
    assert start(*COMPAT, *arguments, cwd=cwd, text=text) == expected
    return expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "script.py").write_text(SELF_PORTRAIT)
    (tmp_path / "bin" / "script.py").write_text(SELF_PORTRAIT)
    (tmp_path / "link.py").symlink_to(tmp_path / "bin" / "script.py")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "__main__.py").write_text(SELF_PORTRAIT)
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "archive.pyz", "w") as archive:
        archive.writestr("__main__.py", SELF_PORTRAIT)
    py_compile.compile(str(tmp_path / "script.py"), cfile=str(tmp_path / "compiled.pyc"))
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["script.py", "--its", "-m", "own", "--", "--loop", "--help"],
        ["./bin/../bin/script.py"],
        ["link.py"],
        ["package"],
        ["archive.pyz", "argument"],
        ["compiled.pyc"],
        ["-m", "script", "-x", "--subprocesses"],
        ["-m", "package"],
        ["-m", "bin.script"],
        ["-m", "script", "--", "x"],
        ["-mscript", "1", "--x"],
        ["--", "script.py", "--", "x"],
    ],
    ids=" ".join,
)
def test_program_sees_what_it_sees_under_python(arguments: list[str], folder: Path) -> None:
    code, output, errors = alike(*arguments, cwd=folder)
    assert (code, errors) == (0, "")
    assert "__main__" in output


def test_an_absolute_path(folder: Path) -> None:
    alike(str(folder / "bin" / "script.py"), cwd=folder)


def test_safe_path(folder: Path) -> None:
    expected = start("-P", "script.py", cwd=folder)
    assert start("-P", *COMPAT, "script.py", cwd=folder) == expected


ENDS = {
    "exit code": "raise SystemExit(3)",
    "exit text": "import sys; sys.exit('told')",
    "at once": "import os; os._exit(5)",
    "exception": "def f():\n    raise ValueError('of f')\nf()",
    "chain": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0], a[2].tb_lineno)\n1/0",
    "syntax": "def f(:\n    pass",
    "interrupt": "raise KeyboardInterrupt",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "at exit": "import atexit\natexit.register(print, 'later')\nprint('now')",
    "threads": (
        "import threading\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    import __main__\n"
        "    print(__main__.name)\n"
        "name = 'of main'\n"
        "threading.Thread(target=late).start()"
    ),
    "pickle": ("import pickle\nclass C: pass\nprint(type(pickle.loads(pickle.dumps(C()))) is C)"),
    "input": "print(input().upper(), end='')",
}


@pytest.mark.parametrize("end", ENDS)
def test_program_ends_as_it_ends_under_python(end: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDS[end])
    code, _, errors = alike("script.py", cwd=tmp_path, text="line\n")
    assert "aiosocketserver" not in errors
    assert code == {"interrupt": -signal.SIGINT, "killed": -signal.SIGTERM}.get(end, code)
    if end != "syntax":
        (tmp_path / "module.py").write_text(ENDS[end])
        alike("-m", "module", cwd=tmp_path, text="line\n")


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import multiprocessing\n"
        "def square(n): return n * n\n"
        "if __name__ == '__main__':\n"
        f"    with multiprocessing.get_context({method!r}).Pool(1) as pool:\n"
        "        print(pool.map(square, [2, 3]))\n"
    )
    assert alike("script.py", cwd=tmp_path) == (0, "[4, 9]\n", "")


@pytest.mark.parametrize("arguments", [["missing.py"], ["-m", "no_such_module"], ["empty"]])
def test_what_cannot_be_run_is_told_as_python_tells_it(arguments: list[str], folder: Path) -> None:
    code, _, errors = alike(*arguments, cwd=folder)
    assert code != 0
    assert errors


def test_the_program_s_socketserver_is_compat(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import socketserver, SocketServer, http.server\n"
        "from aiosocketserver.compat.engine import Engine\n"
        "print(socketserver is SocketServer, issubclass(http.server.HTTPServer, Engine))\n"
    )
    assert start(*COMPAT, "script.py", cwd=tmp_path) == (0, "True True\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "a script, or -m and a module, is required"),
        (["--loops", "x"], "unrecognized arguments"),
        (["--loop", "trio", "script.py"], "invalid choice: 'trio'"),
    ],
)
def test_wrong_arguments(arguments: list[str], told: str, tmp_path: Path) -> None:
    code, _, errors = start(*COMPAT, *arguments, cwd=tmp_path)
    assert code == 2
    assert told in errors


def test_a_wrong_loop_in_the_environment(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('never')")
    code, output, errors = start(
        *COMPAT, "script.py", cwd=tmp_path, AIOSOCKETSERVER_LOOP="nonsense"
    )
    assert (code, output) == (2, "")
    assert "AIOSOCKETSERVER_LOOP must be 'asyncio' or 'uvloop', and is 'nonsense'" in errors


def test_help(tmp_path: Path) -> None:
    code, output, errors = start(*COMPAT, "--help", cwd=tmp_path)
    assert (code, errors) == (0, "")
    for word in ("--loop", "--subprocesses", "-m module", "script", "folder", "archive"):
        assert word in output


NAME = "import socketserver; print(socketserver.__name__)"

CHILDREN = """
import subprocess, sys
child = "import socketserver, sys\\n"
child += "print(socketserver.__name__, [p for p in sys.path if 'in_sub' in p])"
print(subprocess.run([sys.executable, *sys.argv[2:], "-c", child], capture_output=True, text=True))
nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
subprocess.run([sys.executable, "-c", nested])
"""


def test_subprocesses_have_it_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CHILDREN)
    _, output, errors = start(*COMPAT, "script.py", "-", cwd=tmp_path)
    assert errors == ""
    assert output.count("socketserver []") == 2
    assert "aiosocketserver" not in output
    _, output, errors = start(*COMPAT, "--subprocesses", "script.py", "-", cwd=tmp_path)
    assert errors == ""
    assert output.count("aiosocketserver.compat []") == 2


def test_an_isolated_subprocess_has_it_not(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(CHILDREN)
    _, output, errors = start(*COMPAT, "--subprocesses", "script.py", "-", "-I", cwd=tmp_path)
    assert errors == ""
    assert "stdout='socketserver []" in output


def test_the_user_s_own_sitecustomize_runs_in_subprocesses(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('own')")
    (tmp_path / "script.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {NAME!r}])"
    )
    path = os.pathsep.join([str(ROOT), str(tmp_path / "site")])
    _, output, errors = start(*COMPAT, "--subprocesses", "script.py", cwd=tmp_path, PYTHONPATH=path)
    assert errors == ""
    # Of the program itself, and of its child.
    assert sorted(output.splitlines()) == ["aiosocketserver.compat", "own", "own"]


def test_a_subprocess_that_does_not_find_the_package_has_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os, subprocess, sys\n"
        "folder = os.environ['PYTHONPATH'].partition(os.pathsep)[0]\n"
        "environment = {**os.environ, 'PYTHONPATH': folder}\n"
        f"subprocess.run([sys.executable, '-c', {NAME!r}], env=environment)"
    )
    done = start(*COMPAT, "--subprocesses", "script.py", cwd=tmp_path)
    assert done == (0, "aiosocketserver.compat\n", "")

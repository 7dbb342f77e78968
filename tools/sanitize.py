"""Run the tests of sockets on a core that is compiled with the sanitizers of gcc.

`sanitize.py [PYTEST-ARGUMENT...]`: the first use of memory that is not there any more, or not there
at all, and the first undefined behaviour, ends the run with a report. In a copy of the project; a
plain malloc is used for all of Python's objects, because Python's own would hide both.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FLAGS = "-fsanitize=address,undefined"
# What drives the core in this process, and not by programs that it starts.
TESTS = [
    "tests/sockets",
    "tests/greenlets/test_greenlet_socket.py",
    "tests/faults/test_resets.py",
    "tests/servers/test_limits.py",
    "tests/test_compiled.py::test_every_call_has_the_same_outcome",
    # Whose clients are programs, which need not be sanitized.
    "--ignore=tests/sockets/test_foreign_tls.py",
    "--loops=uvloop",
]


def library(name: str) -> str:
    """The path of a library of the compiler's."""
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}"], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def main(arguments: list[str]) -> int:
    """Build, and run pytest; its exit code."""
    from tools.mutants import compile_native, copy_of_project

    # Greenlets copy stacks, which a look at each variable on them would take for faults.
    flags = f"{FLAGS} -fno-sanitize-recover=all --param asan-stack=0 -O1 -g"
    os.environ.update(CC="gcc", CFLAGS=flags, LDFLAGS=FLAGS)
    with copy_of_project() as folder:
        compile_native(folder)
        # Python itself is not compiled so: the library has to be there before it.
        variables = {
            "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')}",
            "PYTHONMALLOC": "malloc",
            # Python does not give back all that it has at its end.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "AIOSOCKETSERVER_NATIVE": "1",
            "PYTHONPATH": str(folder),
        }
        options = ["-q", "-p", "no:cacheprovider", *(arguments or TESTS)]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options], cwd=folder, env=os.environ | variables
        )
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

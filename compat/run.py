"""python -m aiosocketserver.compat: a program as it is, with compat in socketserver's place."""

from __future__ import annotations

import argparse
import importlib.machinery
import os
import pkgutil
import runpy
import sys
import types
from types import CodeType, TracebackType

from .greenlets import GREENLETS_VARIABLE, check_installed
from .install import install
from .loops import LOOP_VARIABLE, loop_factory_named

_IN_SUBPROCESSES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "in_subprocesses")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiosocketserver.compat",
        usage="%(prog)s [options] (script | -m module) [arguments ...]",
        description="Run a Python program as it is, with its socketserver on an event loop. "
        "The program is a script, a folder or an archive, or -m and a module; what follows it is "
        "its own.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--loop",
        choices=["asyncio", "uvloop"],
        help=f"the event loop of its servers (default: what {LOOP_VARIABLE} says, or asyncio)",
    )
    parser.add_argument(
        "--greenlets",
        action="store_true",
        help="greenlets where it asks for threads: for programs that hold no lock and use no "
        "blocking driver while they wait for a client",
    )
    parser.add_argument(
        "--subprocesses",
        action="store_true",
        help="do the same in the Python programs that it starts",
    )
    return parser


def _split(arguments: list[str]) -> tuple[list[str], bool, list[str]]:
    """Our options, whether a module is to be run, and its or the script's name and arguments.

    argparse would look at the program's own arguments too.
    """
    for index, argument in enumerate(arguments):
        ours, program = arguments[:index], arguments[index:]
        if ours[-1:] == ["--loop"]:
            continue
        if argument == "--":
            return ours, False, program[1:]
        if argument == "-m":
            return ours, True, program[1:]
        if argument.startswith("-m"):
            return ours, True, [argument[2:], *program[1:]]
        if not argument.startswith("-"):
            return ours, False, program
    return arguments, False, []


def main() -> None:
    """Run the command line. Everything that the program raises leaves here, as from `python`."""
    parser = _parser()
    arguments, is_module, command = _split(sys.argv[1:])
    options = parser.parse_args(arguments)
    if not command:
        parser.error("a script, or -m and a module, is required")
    if options.loop is not None:
        os.environ[LOOP_VARIABLE] = options.loop
    try:
        loop_factory_named(os.environ.get(LOOP_VARIABLE), f"the variable {LOOP_VARIABLE}")
        if options.greenlets:
            check_installed()
            os.environ[GREENLETS_VARIABLE] = "1"
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    if options.subprocesses:
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_IN_SUBPROCESSES, path]))
    install()
    try:
        if is_module:
            _run_module(command)
        else:
            _run_script(command)
    except SystemExit:
        raise
    except BaseException:
        _hide_our_frames()
        raise


def _new_main_module() -> dict[str, object]:
    # A module of its own, which stays: threads, pickles and child processes look there.
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = module
    return module.__dict__


def _run_module(command: list[str]) -> None:
    # Which is where `python -m` itself goes.
    sys.argv = ["-m", *command[1:]]
    _new_main_module()
    runpy._run_module_as_main(command[0])  # type: ignore[attr-defined]


def _run_script(command: list[str]) -> None:
    sys.argv = command
    # Not abspath(): Python leaves "./" and ".." as they are.
    path = os.path.join(os.getcwd(), command[0])
    if pkgutil.get_importer(path) is not None:
        # A folder or an archive: again, as `python` does.
        _set_first_path(path)
        _new_main_module()
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    loader = (
        importlib.machinery.SourcelessFileLoader
        if path.endswith(".pyc")
        else importlib.machinery.SourceFileLoader
    )
    namespace = _new_main_module()
    namespace.update(
        __file__=path,
        __cached__=None,
        __loader__=loader("__main__", path),
        __package__=None,
        __spec__=None,
    )
    _execute(_code_of(path), namespace)


def _set_first_path(folder: str) -> None:
    # Python puts it there unless it was told not to (-P, -I): in the place of what it
    # has put there for us.
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _code_of(path: str) -> CodeType:
    try:
        with open(path, "rb") as file:
            code: CodeType | None = pkgutil.read_code(file)
            if code is not None:
                return code
            file.seek(0)
            source = file.read()
    except OSError as error:
        # The words and the exit code of `python` itself.
        print(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    return compile(source, path, "exec", dont_inherit=True)


def _execute(code: CodeType, namespace: dict[str, object]) -> None:
    exec(code, namespace)


# The last frames before the program's own, or before those of runpy, which `python -m`
# shows as well.
_LAST_FRAMES = {function.__code__ for function in (_execute, _code_of, _run_module, _run_script)}


def _hide_our_frames() -> None:
    """Have the exception that ends the program shown without the frames of this file."""
    show = sys.excepthook

    def show_without(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        shown, frame = traceback, traceback
        while frame is not None:
            if frame.tb_frame.f_code in _LAST_FRAMES:
                shown = frame.tb_next
            frame = frame.tb_next
        show(kind, error.with_traceback(shown), shown)

    sys.excepthook = show_without

"""What is different in a handler after its conversion, though nothing stands in the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import libcst as cst

from .coroutines import Coroutines
from .findings import Finding
from .handlers import Family
from .names import Names

# Modules whose functions are known: what blocks of them is in the table.
_SEEN_TO = {*sys.stdlib_module_names, "SocketServer", "aiosocketserver", "builtins", "six"}

_THREADS = frozenset(
    {
        "threading.current_thread",
        "threading.currentThread",
        "threading.get_ident",
        "threading.get_native_id",
    }
)


def notes_of(
    names: Names, family: Family, coroutines: Coroutines, *, forks: bool
) -> Iterator[Finding]:
    """What a family sees of its surroundings that is another one now."""
    elsewhere = list(dict.fromkeys(_calls_elsewhere(names, family)))
    if elsewhere:
        what = f"not looked into, and must not block: {', '.join(elsewhere)}"
        yield names.finding(family.classes[0], what)
    for cls in family.classes:
        for call in names.all_of(cst.Call, cls):
            imported = names.imported(call.func)
            if imported & _THREADS:
                what = f"{names.code(call)} is the server's thread for all clients"
                yield names.finding(call, what)
            if forks and "os.getpid" in imported:
                what = f"{names.code(call)} is the server's process for all clients"
                yield names.finding(call, what)
        for clause in names.all_of(cst.ExceptHandler, cls):
            if _swallows_cancellation(names, coroutines, clause):
                what = "this catches the cancellation, too, by which a server ends its handlers"
                yield names.finding(clause, what, "except Exception")


def _calls_elsewhere(names: Names, family: Family) -> Iterator[str]:
    """What a family calls of other modules, or of objects of which the class is not known."""
    defined = {each.name.value for each in names.all_of(cst.FunctionDef)}
    for cls in family.classes:
        for call in names.all_of(cst.Call, cls):
            imported = names.imported(call.func)
            code = names.code(call.func)
            if (
                any(name.partition(".")[0] not in _SEEN_TO for name in imported)
                # From a star import.
                or (isinstance(call.func, cst.Name) and not names.bindings(call.func))
                or (code.startswith("self.server.") and code.rpartition(".")[2] not in defined)
            ):
                yield f"{code}()"


def _swallows_cancellation(names: Names, coroutines: Coroutines, clause: cst.ExceptHandler) -> bool:
    if clause.type is not None and "builtins.BaseException" not in names.imported(clause.type):
        return False
    guarded = names.parent(clause)
    return (
        isinstance(guarded, cst.Try)
        and not names.all_of(cst.Raise, clause.body)
        and any(
            node in coroutines.awaited
            for kind in (cst.Call, cst.For)
            for node in names.all_of(kind, guarded.body)
        )
    )

"""What is different in a handler after its conversion, though nothing stands in the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import libcst as cst

from .coroutines import Coroutines
from .findings import Finding
from .handlers import Family
from .io_calls import Kind
from .names import Names
from .uses import Uses
from .values import Values

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
    names: Names, family: Family, uses: Uses, coroutines: Coroutines, *, forks: bool
) -> Iterator[Finding]:
    """What a family sees of its surroundings that is another one now."""
    elsewhere = list(dict.fromkeys(_calls_elsewhere(names, family, uses.values)))
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


def _calls_elsewhere(names: Names, family: Family, values: Values) -> Iterator[str]:
    """What a family calls of other modules, or of objects of which the class is not known."""
    defined = {each.name.value for each in names.all_of(cst.FunctionDef)}
    for cls in family.classes:
        for call in names.all_of(cst.Call, cls):
            match call.func:
                case cst.Name() as name if not names.bindings(name):
                    # From a star import.
                    known = False
                case cst.Attribute(attr=cst.Name(value=name)):
                    known = name in defined or not _is_of_server(values, call.func)
                case _:
                    known = True
            modules = {each.partition(".")[0] for each in names.imported(call.func)}
            if not known or not modules <= _SEEN_TO:
                yield f"{names.code(call.func)}()"


def _is_of_server(values: Values, node: cst.BaseExpression) -> bool:
    """Whether it is something that the server has: `self.server.model.update`."""
    while isinstance(node, cst.Attribute):
        node = node.value
        if values.of(node) is Kind.SERVER:
            return True
    return False


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

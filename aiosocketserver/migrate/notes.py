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
from .values import Method, Values

# Modules whose functions are known: what blocks of them is in the table.
_SEEN_TO = {*sys.stdlib_module_names, "SocketServer", "aiosocketserver", "builtins", "six"}

_TIMEOUTS = frozenset({"builtins.TimeoutError", "socket.timeout"})

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
            awaited = _awaited_before(names, coroutines, clause)
            if awaited and _swallows_cancellation(names, clause):
                what = "this catches the cancellation, too, by which a server ends its handlers"
                yield names.finding(clause, what, "except Exception")
            if any(_is_of_reader(uses.values, each) for each in awaited) and _is_of_timeouts(
                names, clause
            ):
                what = "after a time-out rfile goes on, where it has raised OSError from then on"
                yield names.finding(clause, what)


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


def _awaited_before(
    names: Names, coroutines: Coroutines, clause: cst.ExceptHandler
) -> list[cst.Call | cst.For]:
    """What is awaited in the block of which `clause` handles the exceptions."""
    guarded = names.parent(clause)
    if not isinstance(guarded, cst.Try):
        return []
    found: list[cst.Call | cst.For] = [*names.all_of(cst.Call, guarded.body)]
    found += names.all_of(cst.For, guarded.body)
    return [each for each in found if each in coroutines.awaited]


def _swallows_cancellation(names: Names, clause: cst.ExceptHandler) -> bool:
    if clause.type is not None and "builtins.BaseException" not in names.imported(clause.type):
        return False
    return not names.all_of(cst.Raise, clause.body)


def _is_of_timeouts(names: Names, clause: cst.ExceptHandler) -> bool:
    return clause.type is not None and bool(names.imported(clause.type) & _TIMEOUTS)


def _is_of_reader(values: Values, awaited: cst.Call | cst.For) -> bool:
    if isinstance(awaited, cst.For):
        return values.of(awaited.iter) is Kind.READER
    method = values.of(awaited.func)
    return isinstance(method, Method) and method.kind is Kind.READER

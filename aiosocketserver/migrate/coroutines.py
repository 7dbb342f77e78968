"""Which functions of a family become coroutines: those that wait, and those that call them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from .findings import Finding
from .io_calls import HOOKS
from .names import Names
from .uses import Uses
from .values import Target

# Decorators that leave a function as it is.
_TRANSPARENT = {"typing.override", "typing_extensions.override"}


@dataclass(frozen=True)
class Coroutines:
    """What becomes `async def`, what gets an `await` or `async`, and what cannot."""

    functions: frozenset[cst.FunctionDef]
    awaited: frozenset[cst.Call | cst.For | cst.CompFor]
    obstacles: tuple[Finding, ...]


def coroutines_of(names: Names, uses: Uses) -> Coroutines:
    """Follow the calls of a family's own functions back from those that wait."""
    values = uses.values
    waiting = _with_callers(uses, {*HOOKS, *map(values.target_of, uses.awaited.values())})
    touching = _with_callers(uses, {*waiting, *map(values.target_of, uses.unawaited.values())})
    calls = [call for call in uses.own_calls if call.target in waiting]
    functions = {each for target in waiting for each in values.definitions(target)}
    obstacles = [
        names.finding(
            call.node,
            f"{names.code(call.node.func)}() waits for the client and is in {call.caller}, "
            "which cannot await",
        )
        for call in calls
        if isinstance(call.caller, str)
    ]
    obstacles += [
        names.finding(
            node,
            f"{names.code(node)} uses the socket and is not called here, so that nobody can tell "
            "by whom it is",
        )
        for node, target in uses.references
        if target in touching
    ]
    for function in functions:
        obstacles += _obstacles_in(names, function)
    awaited = frozenset(uses.awaited).union(call.node for call in calls)
    return Coroutines(frozenset(functions), awaited, tuple(obstacles))


def _with_callers(uses: Uses, targets: set[Target]) -> set[Target]:
    """Those functions, and the own functions that call them, directly or not."""
    found: set[Target] = set()
    while found != targets:
        found = targets
        targets = found | {
            uses.values.target_of(call.caller)
            for call in uses.own_calls
            if call.target in found and isinstance(call.caller, cst.FunctionDef)
        }
    return found


def _obstacles_in(names: Names, function: cst.FunctionDef) -> Iterator[Finding]:
    """What keeps a function from becoming a coroutine."""
    name = function.name.value
    if function.asynchronous is not None:
        yield names.finding(function.name, f"{name}() is a coroutine already")
    if name.startswith("__") and name.endswith("__"):
        what = f"{name}() waits for the client, and Python itself calls it without an await"
        yield names.finding(function.name, what)
    for decorator in function.decorators:
        if not names.imported(decorator.decorator) & _TRANSPARENT:
            what = f"{names.code(decorator)} may not know what to do with a coroutine"
            yield names.finding(decorator, what)
    for each in names.all_of(cst.Yield, function):
        if names.scope_of(each) is function:
            what = f"{name}() is a generator that waits for the client"
            yield names.finding(each, what, "collect what it yields in a list")
            break

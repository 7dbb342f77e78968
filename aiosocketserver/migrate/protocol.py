"""Where the classes of coroutine handlers differ from socketserver's in more than `await`."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .findings import Finding
from .handlers import Family, bases, handler_root, local_bases
from .io_calls import HOOKS, Kind
from .names import Names, last_statement
from .uses import Uses
from .values import Own, Values


def protocol_obstacles(names: Names, family: Family, uses: Uses) -> Iterator[Finding]:
    """What a family does that its new base class does not bear."""
    values = uses.values
    for function in values.definitions("__init__"):
        yield from _of_constructor(names, values, function)
    for cls in family.classes:
        is_base = any(cls in local_bases(names, each) for each in family.classes)
        if not is_base and not _has_handle(names, cls) and not _has_outside_base(names, cls):
            yield names.finding(cls.name, f"{cls.name.value} has no handle()")
        for statement in cls.body.body:
            yield from _of_assigned_hooks(names, statement)
    for call in uses.own_calls:
        func = call.node.func
        if (
            call.target == "handle"
            and isinstance(func, cst.Attribute)
            and values.of(func.value) in (Kind.SUPER, Kind.CLASS)
        ):
            yield from _of_inherited_handle(names, call.node, func.value)


def _of_constructor(names: Names, values: Values, function: cst.FunctionDef) -> Iterator[Finding]:
    """socketserver's constructor serves the request; that of a coroutine handler does not."""
    match last_statement(function):
        case cst.Expr(value=cst.Call(func=func)) if values.of(func) in (
            Own("__init__"),
            Own("__init__", bound=False),
        ):
            return
        case _:
            pass
    yield names.finding(
        function.name,
        "the request is served in the base class's __init__(), which has to be called at the end "
        "of this one: with coroutines it comes after all of it",
        "what is done afterwards belongs into finish()",
    )


def _of_assigned_hooks(names: Names, statement: cst.CSTNode) -> Iterator[Finding]:
    if isinstance(statement, cst.SimpleStatementLine):
        for each in names.all_of(cst.AssignTarget, statement):
            if isinstance(each.target, cst.Name) and each.target.value in HOOKS:
                what = f"{each.target.value} is assigned, and not defined"
                yield names.finding(each.target, what)


def _has_outside_base(names: Names, cls: cst.ClassDef) -> bool:
    return any(
        base.local is None and handler_root(base.imported) is None
        for each in (cls, *local_bases(names, cls))
        for base in bases(names, each)
    )


def _has_handle(names: Names, cls: cst.ClassDef) -> bool:
    return any(
        isinstance(statement, cst.FunctionDef) and statement.name.value == "handle"
        for each in (cls, *local_bases(names, cls))
        for statement in each.body.body
    )


def _of_inherited_handle(names: Names, call: cst.Call, of: cst.BaseExpression) -> Iterator[Finding]:
    cls = names.enclosing(call, cst.ClassDef)
    above = [] if cls is None else local_bases(names, cls)
    if handler_root(names.imported(of)) or not any(_has_handle(names, base) for base in above):
        what = f"{names.code(call)} does nothing there, and raises NotImplementedError here"
        yield names.finding(call, what, "take it out")

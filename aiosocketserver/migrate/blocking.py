"""Finds what in a handler would stop the loop, or do something else in a coroutine."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from .blocking_calls import (
    ENDS,
    IN_THREAD,
    IS_LOCAL,
    LOCALS,
    LOCK_NAME,
    LOCKS,
    MAY_TAKE_LOCK,
    METHODS,
    NON_BLOCKING,
    QUEUE_NAME,
    QUEUES,
    TAKES_FROM_QUEUE,
    TAKES_LOCK,
    Blocking,
    blocking_function,
)
from .findings import Finding
from .handlers import Family
from .names import Names
from .uses import Uses
from .values import Method, Own

# A call of one of these on an unknown object is that of a built-in type, and not of a
# class of the same source that has a method of this name.
_OF_BUILTIN_TYPES = frozenset(
    name for kind in (bytearray, dict, list, set, str) for name in dir(kind)
)

_EXITS = frozenset({"builtins.KeyboardInterrupt", "builtins.SystemExit"})


def blocking_in(names: Names, family: Family, uses: Uses) -> list[Finding]:
    """What a family calls that blocks, also in other functions of the same source."""
    return list(dict.fromkeys(_Finder(names, family, uses).findings()))


class _Finder:
    def __init__(self, names: Names, family: Family, uses: Uses) -> None:
        self._names = names
        self._family = family
        self._uses = uses
        self._other_classes = [
            each for each in names.all_of(cst.ClassDef) if each not in family.classes
        ]
        self._made = {
            kind: self._made_by(makers)
            for kind, makers in (("lock", LOCKS), ("queue", QUEUES), ("local", LOCALS))
        }

    def findings(self) -> Iterator[Finding]:
        # Each function with the one that the handler calls, through which it is reached.
        waiting: list[tuple[cst.FunctionDef, str]] = [
            (function, "")
            for definitions in self._uses.values.methods.values()
            for function in definitions
        ]
        seen: set[cst.FunctionDef] = set()
        while waiting:
            function, through = waiting.pop(0)
            if function in seen:
                continue
            seen.add(function)
            yield from self._in_function(function, through)
            for call in self._names.all_of(cst.Call, function):
                waiting += [
                    (each, through or self._names.code(call.func)) for each in self._called(call)
                ]

    def _in_function(self, function: cst.FunctionDef, through: str) -> Iterator[Finding]:
        def found(node: cst.CSTNode, what: str, blocking: Blocking, called: str = "") -> Finding:
            way_out = blocking.way_out.format(function=called)
            if through:
                what = f"{what} in {function.name.value}()"
                way_out = IN_THREAD.format(function=through)
            return self._names.finding(node, f"{what} {blocking.does}", way_out)

        for call in self._names.all_of(cst.Call, function):
            blocking = self._blocking_call(call)
            if blocking is not None:
                code = self._names.code(call.func)
                yield found(call, f"{code}()", blocking, code)
        for item in self._names.all_of(cst.WithItem, function):
            statement = self._names.parent(item)
            asynchronous = isinstance(statement, cst.With) and statement.asynchronous is not None
            # What is made for one `with` is made there, as a rule: with open(...).
            if not asynchronous and self._last_name(item.item):
                blocking = TAKES_LOCK if self._is_a("lock", item.item) else MAY_TAKE_LOCK
                yield found(item, f"with {self._names.code(item.item)}", blocking)
        for leaving in self._names.all_of(cst.Raise, function):
            raised = leaving.exc.func if isinstance(leaving.exc, cst.Call) else leaving.exc
            if raised is not None and self._names.imported(raised) & _EXITS:
                yield found(leaving, self._names.code(leaving), ENDS)
        for attribute in self._names.all_of(cst.Attribute, function):
            if self._last_name(attribute.value) in self._made["local"]:
                yield found(attribute, self._names.code(attribute), IS_LOCAL)

    def _blocking_call(self, call: cst.Call) -> Blocking | None:
        if isinstance(self._names.parent(call), cst.Await) or call in self._uses.seen_to:
            return None
        imported = self._names.imported(call.func)
        if imported:
            return blocking_function(imported)
        if not isinstance(call.func, cst.Attribute):
            return None
        if isinstance(self._uses.values.of(call.func), Own | Method):
            return None
        name = call.func.attr.value
        if name in NON_BLOCKING and any(
            self._names.code(arg.value) == "False" for arg in call.args
        ):
            return None
        if name == "get" and self._is_a("queue", call.func.value):
            return TAKES_FROM_QUEUE
        arguments, blocking = METHODS.get(name, (range(0), None))
        return blocking if len(call.args) in arguments else None

    def _called(self, call: cst.Call) -> Iterator[cst.FunctionDef]:
        """The functions of this source, outside of the family, that a call may run."""
        func = call.func
        function = self._names.definition(func, cst.FunctionDef)
        if function is not None and not self._is_own(function):
            yield function
        cls = self._names.definition(func, cst.ClassDef)
        if cls in self._other_classes:
            yield from self._methods("__init__", cls)
        if (
            isinstance(func, cst.Attribute)
            and func.attr.value not in _OF_BUILTIN_TYPES
            and not self._names.imported(func)
            and not isinstance(self._uses.values.of(func), Own | Method)
        ):
            for cls in self._other_classes:
                yield from self._methods(func.attr.value, cls)

    def _is_own(self, function: cst.FunctionDef) -> bool:
        """Whether it is inside of the family, and so has been looked at."""
        return any(each in self._family.classes for each in self._names.ancestors(function))

    def _methods(self, name: str, cls: cst.ClassDef) -> Iterator[cst.FunctionDef]:
        for statement in cls.body.body:
            if isinstance(statement, cst.FunctionDef) and statement.name.value == name:
                yield statement

    # Objects by the names that they are given

    def _made_by(self, makers: frozenset[str]) -> set[str]:
        """The last names of what is set to the result of one of these functions."""
        made: set[str] = set()
        for assign in self._names.all_of(cst.Assign):
            if isinstance(assign.value, cst.Call) and self._names.imported(
                assign.value.func
            ).intersection(makers):
                made |= {self._last_name(each.target) for each in assign.targets}
        return made - {""}

    def _is_a(self, kind: str, node: cst.BaseExpression) -> bool:
        name = self._last_name(node)
        pattern = LOCK_NAME if kind == "lock" else QUEUE_NAME
        return name in self._made[kind] or bool(pattern.search(name))

    def _last_name(self, node: cst.CSTNode) -> str:
        match node:
            case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
                return name
            case _:
                return ""

"""What the expressions in a handler stand for: the handler, its socket, its files, its methods.

It is followed through local names, attributes of the handler, and the parameters of its
own methods and nested functions. The order of statements is not looked at: a name that is
bound to one thing here and to another there is MIXED, which is told to the user.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import Assignment

from .arguments import is_property, is_unbound, positional
from .handlers import Family, handler_root
from .io_calls import HANDLERS_OWN, HOOKS, IO, Kind
from .names import Names

# A method of the family by its name, all definitions of it together; or a function in one.
Target = str | cst.FunctionDef


@dataclass(frozen=True)
class Method:
    """A method of the socket or of a file: `self.request.recv`."""

    kind: Kind
    name: str


@dataclass(frozen=True)
class Own:
    """A method of the handler, or a function in one; `bound` when it needs no `self`."""

    target: Target
    bound: bool = True


Value = Kind | Method | Own


class Values:
    """What the expressions in the classes of a family stand for."""

    def __init__(self, names: Names, family: Family) -> None:
        self._names = names
        self._attributes = family.attributes
        self._classes = family.classes
        self.methods: dict[str, list[cst.FunctionDef]] = {}
        for cls in family.classes:
            for function in names.all_of(cst.FunctionDef, cls):
                if self._class_of(function) is cls:
                    self.methods.setdefault(function.name.value, []).append(function)
        # Attributes that a class statement sets, but not by `def`.
        self.assigned = {
            target.target.value
            for cls in family.classes
            for line in cls.body.body
            for target in names.all_of(cst.AssignTarget, line)
            if isinstance(line, cst.SimpleStatementLine) and isinstance(target.target, cst.Name)
        }
        # What has been seen so far of calls and assignments; it grows from round to round.
        self._given: dict[tuple[Target, str], set[Value]] = {}
        self._kept: dict[str, set[Value]] = {}
        self._names_in_question: set[tuple[object, str]] = set()
        self.changed = False

    def target_of(self, function: cst.FunctionDef) -> Target:
        """What calls `function`: the name of a method, or the function itself."""
        return function if self._class_of(function) is None else function.name.value

    def definitions(self, target: Target) -> list[cst.FunctionDef]:
        """The functions that a call of `target` may run."""
        return self.methods.get(target, []) if isinstance(target, str) else [target]

    # Expressions

    def of(self, node: cst.BaseExpression) -> Value:
        """What an expression stands for."""
        match node:
            case cst.Name(value="None"):
                return Kind.NOTHING
            case cst.Name():
                return self._of_name(node)
            case cst.Attribute():
                return self._of_attribute(node)
            case cst.NamedExpr():
                return self.of(node.value)
            case cst.Subscript():
                pair = self.of(node.value) is Kind.REQUEST
                return Kind.DATAGRAMS if pair and literal_index(node) == 1 else Kind.OTHER
            case cst.Call(func=cst.Name(value="super")):
                return Kind.SUPER
            case _:
                return Kind.OTHER

    def _of_name(self, node: cst.Name) -> Value:
        if handler_root(self._names.imported(node)):
            return Kind.CLASS
        bindings = self._names.bindings(node)
        key = (next(iter(bindings)).scope if bindings else None, node.value)
        if key in self._names_in_question:
            # It depends on itself, and so on what else it is bound to.
            return Kind.NOTHING
        self._names_in_question.add(key)
        try:
            return joined(
                self._of_binding(each.node) if isinstance(each, Assignment) else Kind.OTHER
                for each in bindings
            )
        finally:
            self._names_in_question.discard(key)

    def _of_binding(self, node: cst.CSTNode) -> Value:
        match node:
            case cst.ClassDef():
                return Kind.CLASS if node in self._classes else Kind.OTHER
            case cst.FunctionDef():
                inside = any(each in self._classes for each in self._names.ancestors(node))
                return Own(self.target_of(node), bound=False) if inside else Kind.OTHER
            case cst.Param():
                return self._of_parameter(node)
            case cst.Name():
                return self.bound_to(node)
            case _:
                return Kind.OTHER

    def _of_parameter(self, node: cst.Param) -> Value:
        function = self._names.enclosing(node, cst.FunctionDef)
        if function is None or not isinstance(self._names.parent(node), cst.Parameters):
            return Kind.OTHER
        if function.params is not self._names.parent(node):
            # A lambda's.
            return Kind.OTHER
        if self._class_of(function) is not None:
            if positional(function)[:1] == [node]:
                return Kind.OTHER if is_unbound(function) else Kind.HANDLER
            if function.name.value == "__init__" and self._is_passed_on(node, function):
                return Kind.REQUEST
        return self.given(self.target_of(function), node.name.value)

    def _is_passed_on(self, parameter: cst.Param, constructor: cst.FunctionDef) -> bool:
        """Whether the base class's constructor gets it as its `request`."""
        for call in self._names.all_of(cst.Call, constructor):
            own = self.of(call.func)
            if isinstance(own, Own) and own.target == "__init__":
                args = call.args if own.bound else call.args[1:]
                by_name = [arg for arg in args if arg.keyword and arg.keyword.value == "request"]
                match (*by_name, *args[:1]):
                    case [cst.Arg(value=cst.Name(value=name)), *_]:
                        return name == parameter.name.value
                    case _:
                        pass
        return False

    def _of_attribute(self, node: cst.Attribute) -> Value:
        name = node.attr.value
        match self.of(node.value):
            case Kind.HANDLER:
                if name in self._attributes:
                    return self._attributes[name]
                if name == "server":
                    return Kind.SERVER
                if any(map(is_property, self.definitions(name))):
                    return Kind.OTHER
                if name in self.methods or name in HOOKS:
                    return Own(name)
                return joined(self._kept.get(name, ()))
            case Kind.SUPER:
                known = name in self.methods or name in HOOKS or name == "__init__"
                return Own(name) if known else Kind.OTHER
            case Kind.CLASS:
                known = name in self.methods or name in HOOKS or name == "__init__"
                return Own(name, bound=False) if known else Kind.OTHER
            case Kind() as kind if kind in IO:
                return Method(kind, name)
            case Kind.MIXED:
                return Kind.MIXED
            case _:
                # socketserver.StreamRequestHandler
                return Kind.CLASS if handler_root(self._names.imported(node)) else Kind.OTHER

    # Assignments

    def bound_to(self, target: cst.CSTNode) -> Value:
        """What is assigned to `target`, a name or an attribute in a statement that does."""
        parent = self._names.parent(target)
        match parent:
            case cst.AssignTarget():
                assign = self._names.parent(parent)
                assert isinstance(assign, cst.Assign)
                return self.of(assign.value)
            case cst.AnnAssign(value=None):
                return Kind.NOTHING
            case cst.AnnAssign(value=cst.BaseExpression() as value):
                return self.of(value)
            case cst.NamedExpr():
                return self.of(parent.value)
            case cst.Element():
                return self._unpacked(parent)
            case _:
                return Kind.OTHER

    def _unpacked(self, element: cst.Element) -> Value:
        """What is assigned to one of several targets: `data, sock = self.request`."""
        targets = self._names.parent(element)
        holder = self._names.parent(targets)
        assign = self._names.parent(holder)
        if not isinstance(targets, cst.Tuple | cst.List) or not isinstance(assign, cst.Assign):
            return Kind.OTHER
        index = targets.elements.index(element)
        opposite = opposite_element(targets, assign.value, index)
        if opposite is not None:
            return self.of(opposite)
        pair = is_pair(targets) and self.of(assign.value) is Kind.REQUEST
        return Kind.DATAGRAMS if pair and index == 1 else Kind.OTHER

    def keep(self, attribute: str, value: Value) -> None:
        """Remember that an attribute of the handler is set to `value`."""
        self._add(self._kept.setdefault(attribute, set()), value)

    def given(self, target: Target, parameter: str) -> Value:
        """What a function is called with for a parameter, as far as it has been seen."""
        return joined(self._given.get((target, parameter), ()))

    def give(self, target: Target, parameter: str, value: Value) -> None:
        """Remember that a function is called with `value` for a parameter."""
        self._add(self._given.setdefault((target, parameter), set()), value)

    def _add(self, seen: set[Value], value: Value) -> None:
        if value not in seen:
            seen.add(value)
            self.changed = True

    def _class_of(self, function: cst.FunctionDef) -> cst.ClassDef | None:
        """The class of the family that `function` is a method of."""
        for each in self._names.ancestors(function):
            if isinstance(each, cst.FunctionDef | cst.Lambda):
                return None
            if isinstance(each, cst.ClassDef):
                return each if each in self._classes else None
        return None


def joined(values: Iterable[Value]) -> Value:
    """What a name stands for that is bound to each of these."""
    different = set(values) - {Kind.NOTHING}
    if len(different) == 1:
        return different.pop()
    is_io = any(isinstance(each, Method) or each in HANDLERS_OWN for each in different)
    return Kind.MIXED if is_io else Kind.OTHER


def literal_index(node: cst.Subscript) -> int | None:
    """The number in `x[number]`."""
    match node.slice:
        case [cst.SubscriptElement(slice=cst.Index(value=cst.Integer(value=text)))]:
            return int(text, 0)
        case _:
            return None


def is_pair(node: cst.BaseExpression) -> bool:
    """Whether it is of the form `data, sock`."""
    match node:
        case cst.Tuple(elements=[cst.Element(), cst.Element()]):
            return True
        case cst.List(elements=[cst.Element(), cst.Element()]):
            return True
        case _:
            return False


def opposite_element(
    targets: cst.Tuple | cst.List, value: cst.BaseExpression, index: int
) -> cst.BaseExpression | None:
    """What `a, b = x, y` assigns to the target at `index`, if it is so simple."""
    if not isinstance(value, cst.Tuple | cst.List) or len(value.elements) != len(targets.elements):
        return None
    if any(isinstance(each, cst.StarredElement) for each in (*targets.elements, *value.elements)):
        return None
    return value.elements[index].value

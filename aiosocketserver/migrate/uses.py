"""What a family of handlers does with its socket, its files, its functions and itself.

Each use is I/O that is to be awaited, or known to be harmless, or an obstacle.
"""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst

from .arguments import bind_arguments
from .escapes import Escapes
from .findings import Finding
from .handlers import Family
from .io_calls import AWAITED, IO, OF_EACH_HANDLER, PLAIN, WAYS_OUT, Kind
from .names import Names
from .values import Method, Own, Target, Values

_LAMBDA = "a lambda"


@dataclass(frozen=True)
class OwnCall:
    """A call of one of the handler's own functions.

    `caller` is the function that it is in, or what it is in instead that cannot await.
    """

    node: cst.Call
    target: Target
    caller: cst.FunctionDef | str


@dataclass(frozen=True)
class Uses:
    """What was found in a family.

    - awaited: the calls and loops that wait for the client, each with its function
    - unawaited: the calls on the socket that do not wait, each with its function
    - own_calls: the calls of the handler's own functions
    - references: own functions that are used in other ways than by calling them
    - seen_to: the calls of which enough has been said: on the handler's socket and files,
      and those that one of these is handed to
    """

    values: Values
    awaited: dict[cst.Call | cst.For | cst.CompFor, cst.FunctionDef]
    unawaited: dict[cst.Call, cst.FunctionDef]
    own_calls: list[OwnCall]
    references: list[tuple[cst.BaseExpression, Target]]
    seen_to: set[cst.Call]
    obstacles: list[Finding]


def uses_of(names: Names, family: Family) -> Uses:
    """Look at everything that a family does."""
    values = Values(names, family)
    while True:
        values.changed = False
        finder = _Finder(names, family, values)
        for cls in family.classes:
            cls.visit(finder)
        # What was learnt of attributes and parameters may tell more of what uses them.
        if not values.changed:
            return finder.found


class _Finder(cst.CSTVisitor):
    def __init__(self, names: Names, family: Family, values: Values) -> None:
        super().__init__()
        self._names = names
        self._family = family
        self._values = values
        self._escapes = escapes = Escapes(names, values)
        self.found = Uses(values, {}, {}, [], escapes.references, escapes.calls, escapes.obstacles)

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.Annotation):
            return False
        if isinstance(node, cst.Attribute) and self._names.is_stored(node):
            self._set_attribute(node)
        elif isinstance(node, cst.BaseExpression) and self._names.is_loaded(node):
            self._use(node)
        if isinstance(node, cst.Call):
            self._call(node)
        return True

    def _obstacle(self, node: cst.CSTNode, what: str, way_out: str = "") -> None:
        self.found.obstacles.append(self._names.finding(node, what, way_out))

    def _set_attribute(self, node: cst.Attribute) -> None:
        name, of = node.attr.value, self._values.of(node.value)
        if of in IO:
            self._obstacle(node, f"{self._names.code(node)} cannot be set")
        elif of is Kind.HANDLER:
            value = self._values.bound_to(node)
            expected = self._family.attributes.get(name)
            if expected is None:
                self._values.keep(name, value)
            elif value is not expected:
                self._obstacle(node, f"self.{name} is replaced by something else")

    def _use(self, node: cst.BaseExpression) -> None:
        value = self._values.of(node)
        parent = self._names.parent(node)
        match value:
            case Kind.OTHER | Kind.NOTHING:
                self._use_of_others(node)
            case Kind.MIXED:
                self._use_of_mixed(node)
            case Kind.READER if isinstance(parent, cst.For | cst.CompFor) and parent.iter is node:
                self._await(parent, node)
            case Method(kind, name) if name not in AWAITED[kind] | PLAIN[kind]:
                what = f"{kind.value} of a coroutine handler has no {name}"
                self._obstacle(node, what, WAYS_OUT.get((kind, name), ""))
            case _:
                self._escapes.look_at(node, value)

    def _use_of_others(self, node: cst.BaseExpression) -> None:
        """Another handler's socket or file, which would have to be awaited as well."""
        if (
            isinstance(node, cst.Attribute)
            and node.attr.value in OF_EACH_HANDLER
            and node.attr.value not in self._values.methods
            and self._values.of(node.value) is Kind.OTHER
            and not self._names.imported(node)
        ):
            self._obstacle(node, f"nobody can tell what {self._names.code(node)} is")

    def _use_of_mixed(self, node: cst.BaseExpression) -> None:
        of = self._values.of(node.value) if isinstance(node, cst.Attribute) else Kind.OTHER
        if of is not Kind.MIXED:
            what = "is sometimes the handler's own, and sometimes something else"
            self._obstacle(node, f"{self._names.code(node)} {what}")

    # Calls

    def _call(self, call: cst.Call) -> None:
        match self._values.of(call.func):
            case Method(kind, name):
                self.found.seen_to.add(call)
                if name in AWAITED[kind]:
                    self._await(call, call)
                else:
                    self._call_at_once(call)
            case Own() as own:
                self.found.own_calls.append(OwnCall(call, own.target, self._waiting(call)))
                if own.target != "__init__":
                    for function in self._values.definitions(own.target):
                        self._give_arguments(call, own, function)
            case _:
                self._call_of_other(call)

    def _call_of_other(self, call: cst.Call) -> None:
        """A function that a class has without a `def` gets the handler as its `self`."""
        match call.func:
            case cst.Attribute(value=of, attr=cst.Name(value=name)) if (
                self._values.of(of) is Kind.HANDLER and name in self._values.assigned
            ):
                what = f"self.{name}() is not defined in the class, and what it does cannot be seen"
                self._obstacle(call, what)
            case _:
                pass

    def _call_at_once(self, call: cst.Call) -> None:
        caller = self._waiting(call)
        if isinstance(caller, cst.FunctionDef):
            self.found.unawaited[call] = caller
        elif caller == _LAMBDA:
            # As in threading.Timer(10, lambda: self.request.close()).
            what = f"{self._names.code(call)} is in {caller}, which another thread may call"
            self._obstacle(call, what)

    def _await(self, node: cst.Call | cst.For | cst.CompFor, shown: cst.BaseExpression) -> None:
        waits = self._waiting(node)
        if isinstance(waits, cst.FunctionDef):
            self.found.awaited[node] = waits
            return
        way_out = ""
        around = self._names.enclosing(node, cst.Lambda)
        call = None if around is None else self._names.enclosing(around, cst.Call)
        if call is not None and "builtins.iter" in self._names.imported(call.func):
            way_out = f"while block := await {self._names.code(shown)}: ..."
        what = f"{self._names.code(shown)} is in {waits}, which cannot await"
        self._obstacle(shown, what, way_out)

    def _waiting(self, node: cst.CSTNode) -> cst.FunctionDef | str:
        """The function that can wait for `node`, or what it is in that cannot."""
        match self._names.scope_of(node):
            case cst.FunctionDef() as function:
                of_family = self._names.enclosing(function, cst.ClassDef) in self._family.classes
                return function if of_family else "a method of another class"
            case cst.Lambda():
                return _LAMBDA
            case cst.GeneratorExp():
                return "a generator expression"
            case _:
                return "the body of a class"

    def _give_arguments(self, call: cst.Call, own: Own, function: cst.FunctionDef) -> None:
        given = bind_arguments(call, function, bound=own.bound)
        for name, expression in given.by_name.items():
            value = Kind.OTHER if expression is None else self._values.of(expression)
            self._values.give(own.target, name, value)
        for expression in given.others:
            self._escapes.hand_over(expression, self._values.of(expression), call)

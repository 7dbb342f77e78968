"""Where the socket, a file, the handler or one of its functions goes, and whether it can be
followed there: if not, nobody can tell from here what is done with it.
"""

from __future__ import annotations

import libcst as cst
from libcst.metadata import GlobalScope

from .arguments import is_unbound
from .findings import Finding
from .io_calls import (
    DATA,
    ENDING,
    HANDLERS_OWN,
    HARMLESS,
    HARMLESS_FOR_HANDLER,
    INSTEAD_OF_HANDING,
    IO,
    LOGGING,
    Kind,
)
from .names import Names
from .values import Method, Own, Target, Value, Values, is_pair, literal_index, opposite_element

_CONTAINERS = cst.Element | cst.Tuple | cst.List | cst.Set | cst.DictElement | cst.Dict

_UNSEEN = "and what is done with it there cannot be seen"


class Escapes:
    """Collects what leaves the part of a source that is followed.

    - obstacles: of the socket, the files and the handler
    - references: of the handler's own functions, which are obstacles if they wait
    - calls: what obstacles are handed to
    """

    def __init__(self, names: Names, values: Values) -> None:
        self._names = names
        self._values = values
        self.obstacles: list[Finding] = []
        self.references: list[tuple[cst.BaseExpression, Target]] = []
        self.calls: set[cst.Call] = set()

    def look_at(self, node: cst.BaseExpression, value: Value) -> None:
        """Look at where `node`, which stands for `value`, is used."""
        parent = self._names.parent(node)
        match parent:
            case cst.Attribute() | cst.Call() | cst.Comparison() | cst.ComparisonTarget():
                pass
            case cst.Expr() | cst.FormattedStringExpression() | cst.UnaryOperation():
                pass
            case cst.If() | cst.While():
                pass
            case cst.IfExp() if parent.test is node:
                pass
            case cst.Subscript() if value is Kind.REQUEST and literal_index(parent) in (0, 1):
                pass
            case cst.Arg():
                self._argument(node, value, parent)
            case cst.Assign():
                for each in parent.targets:
                    self._assignment(node, value, each.target)
            case cst.AnnAssign() | cst.NamedExpr():
                self._assignment(node, value, parent.target)
            case cst.Element() if self._is_assigned_apart(node, value, parent):
                pass
            case _:
                self._elsewhere(node, value)

    def hand_over(self, node: cst.BaseExpression, value: Value, call: cst.Call) -> None:
        """A value is an argument of a call that is not followed."""
        known = self._names.imported(call.func)
        ways_out = [way for name, way in INSTEAD_OF_HANDING.items() if name in known]
        what = f"is handed to {self._names.code(call.func)}(), {_UNSEEN}"
        if self._escape(node, value, f"{self._title(node, value)} {what}", "".join(ways_out)):
            self.calls.add(call)

    def _escape(self, node: cst.BaseExpression, value: Value, what: str, way_out: str = "") -> bool:
        """A value goes where it cannot be followed; whether that is an obstacle by itself."""
        match value:
            case Own(target):
                self.references.append((node, target))
                return False
            case Method(name=name) if name in DATA:
                return False
            case Kind() if value not in HANDLERS_OWN:
                return False
            case _:
                self.obstacles.append(self._names.finding(node, what, way_out))
                return True

    def _title(self, node: cst.BaseExpression, value: Value) -> str:
        """An expression as the user knows it."""
        code = self._names.code(node)
        if value is Kind.HANDLER:
            return "the handler itself"
        return f"{code} ({value.value})" if value in IO and value.value != code else code

    def _argument(self, node: cst.BaseExpression, value: Value, arg: cst.Arg) -> None:
        call = self._names.parent(arg)
        # The other thing that has arguments is a class, with its bases.
        if isinstance(call, cst.Call) and not self._is_followed(call, value):
            self.hand_over(node, value, call)

    def _is_followed(self, call: cst.Call, value: Value) -> bool:
        """Whether it is known what a call does with an argument."""
        own = self._values.of(call.func)
        if isinstance(own, Own) and not any(map(is_unbound, self._values.definitions(own.target))):
            return True
        match call.func:
            case cst.Name(value="super"):
                return True
            case cst.Attribute(attr=cst.Name(value=name)) if name in LOGGING:
                return True
            case cst.Attribute(value=of, attr=cst.Name(value=name)) if name in ENDING:
                return self._values.of(of) is Kind.SERVER
            case cst.Attribute(value=cst.SimpleString(), attr=cst.Name(value="format")):
                return True
            case _:
                harmless = HARMLESS_FOR_HANDLER if value is Kind.HANDLER else HARMLESS
                return bool(self._names.imported(call.func) & harmless)

    def _assignment(
        self, node: cst.BaseExpression, value: Value, target: cst.BaseExpression
    ) -> None:
        match target:
            case _ if value is Kind.REQUEST and is_pair(target):
                # data, sock = self.request
                return
            case cst.Name() if not self._is_global(target):
                everywhere = self._values.of(target)
            case cst.Attribute(value=of) if (
                self._values.of(of) is Kind.HANDLER and value is not Kind.HANDLER
            ):
                everywhere = self._values.of(target)
            case _:
                everywhere = Kind.OTHER
        # What is MIXED is told where it is used.
        if everywhere not in (value, Kind.MIXED):
            what = f"is kept in {self._names.code(target)}, {_UNSEEN}"
            self._escape(node, value, f"{self._title(node, value)} {what}")

    def _is_global(self, name: cst.Name) -> bool:
        return any(isinstance(each.scope, GlobalScope) for each in self._names.bindings(name))

    def _is_assigned_apart(
        self, node: cst.BaseExpression, value: Value, element: cst.Element
    ) -> bool:
        """Look at `a, b = x, y`, where each goes to its own target."""
        values = self._names.parent(element)
        assign = self._names.parent(values)
        if not isinstance(assign, cst.Assign) or not isinstance(values, cst.Tuple | cst.List):
            return False
        index = values.elements.index(element)
        targets: list[cst.BaseExpression] = []
        for each in assign.targets:
            if (
                not isinstance(each.target, cst.Tuple | cst.List)
                or opposite_element(each.target, values, index) is not node
            ):
                return False
            targets.append(each.target.elements[index].value)
        for target in targets:
            self._assignment(node, value, target)
        return True

    def _elsewhere(self, node: cst.BaseExpression, value: Value) -> None:
        outer: cst.CSTNode = self._names.parent(node)
        while isinstance(outer, _CONTAINERS):
            outer = self._names.parent(outer)
        title = self._title(node, value)
        match outer:
            case cst.Arg() if isinstance(call := self._names.parent(outer), cst.Call):
                self.hand_over(node, value, call)
            case cst.BinaryOperation(left=cst.SimpleString(), operator=cst.Modulo()):
                # "..." % (conn, address)
                pass
            case cst.Return():
                self._escape(node, value, f"{title} is returned, {_UNSEEN}")
            case _:
                self._escape(node, value, f"{title} is used in a way that cannot be followed")

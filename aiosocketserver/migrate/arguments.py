"""Which argument of a call reaches which parameter of a function."""

from __future__ import annotations

from dataclasses import dataclass

import libcst as cst


@dataclass(frozen=True)
class Given:
    """What the parameters of a function are in one call.

    - by_name: each parameter that is known, with its expression; None when that cannot
      be told
    - others: the arguments that go elsewhere: `*args`, `**kwargs`, and too many
    """

    by_name: dict[str, cst.BaseExpression | None]
    others: list[cst.BaseExpression]


def positional(function: cst.FunctionDef) -> list[cst.Param]:
    """The parameters that can be given without their names."""
    return [*function.params.posonly_params, *function.params.params]


def is_static(function: cst.FunctionDef) -> bool:
    """Whether it is a static method."""
    return _is_decorated(function, "staticmethod")


def is_unbound(function: cst.FunctionDef) -> bool:
    """Whether its first parameter is no instance: a static or a class method."""
    return is_static(function) or _is_decorated(function, "classmethod")


def is_property(function: cst.FunctionDef) -> bool:
    """Whether it is called by looking at an attribute."""
    return _is_decorated(function, "property") or _is_decorated(function, "cached_property")


def _is_decorated(function: cst.FunctionDef, name: str) -> bool:
    for each in function.decorators:
        match each.decorator:
            case cst.Name(value=found) | cst.Attribute(attr=cst.Name(value=found)):
                if found == name:
                    return True
            case _:
                pass
    return False


def bind_arguments(call: cst.Call, function: cst.FunctionDef, *, bound: bool) -> Given:
    """Bind them as Python does, in a call of a bound method or of a function."""
    in_order = positional(function)[1 if bound and not is_static(function) else 0 :]
    parameters = {each.name.value: each for each in (*in_order, *function.params.kwonly_params)}
    by_name: dict[str, cst.BaseExpression | None] = {}
    others: list[cst.BaseExpression] = []
    unpacked = False
    for index, arg in enumerate(call.args):
        unpacked = unpacked or bool(arg.star)
        if arg.keyword is not None:
            name = arg.keyword.value
        elif index < len(in_order) and not unpacked:
            name = in_order[index].name.value
        else:
            name = ""
        if name in parameters:
            by_name[name] = arg.value
        else:
            others.append(arg.value)
    for name, parameter in parameters.items():
        by_name.setdefault(name, None if unpacked else parameter.default)
    return Given(by_name, others)

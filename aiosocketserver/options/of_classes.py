"""Which options a server class has: attributes that are annotated with one of the table."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_args
from weakref import WeakKeyDictionary

from ..optional_ssl import has_ssl
from .keywords import ServerOptions
from .table import Option


@dataclass(frozen=True)
class Known:
    """An option of a class, with its type and default."""

    name: str
    hint: Any
    default: Any
    option: Option

    def wrong(self, value: object) -> str | None:
        """What is right instead, if a value makes no sense."""
        if type(None) not in get_args(self.hint):
            return self.option.check(value)
        wanted = None if value is None else self.option.check(value)
        return wanted and f"{wanted}, or None"


# Classes of programs have their options from classes of ours.
_PACKAGE = __name__.partition(".")[0] + "."

_known: WeakKeyDictionary[type, dict[str, Known]] = WeakKeyDictionary()


def options_of(cls: type) -> dict[str, Known]:
    """The options that servers of a class have, by name."""
    if cls not in _known:
        without: frozenset[str] = getattr(cls, "without_options", frozenset())
        found: dict[str, Known] = {}
        for base in reversed(cls.__mro__):
            if base.__module__.startswith(_PACKAGE):
                for name, text in inspect.get_annotations(base).items():
                    if str(text).startswith("Annotated[") and name not in without:
                        hint, option = get_args(_evaluated(text, base))
                        found[name] = Known(name, hint, getattr(cls, name), option)
        _known[cls] = found
    return _known[cls]


def _evaluated(annotation: str, cls: type) -> Any:
    """What an annotation stands for in the module of its class."""
    more = {} if has_ssl() else {"ssl": SimpleNamespace(SSLContext=object)}
    return eval(annotation, vars(sys.modules[cls.__module__]), more)


def apply_options(server: object, given: ServerOptions) -> None:
    """Set what was given on `server`, and check every option that it has.

    Raises TypeError for a name that the server's class does not have, and ValueError
    for a value that makes no sense, wherever it was set.
    """
    name_of_class = type(server).__qualname__
    known = options_of(type(server))
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))}"
            raise TypeError(f"{name_of_class} has no option {name!r}: {hint}")
        setattr(server, name, value)
    check_options(server, known)


def check_options(server: object, options: Mapping[str, Known]) -> None:
    """Raise ValueError for a value on `server` that makes no sense."""
    for name, known in options.items():
        value = getattr(server, name)
        wanted = known.wrong(value)
        if wanted is not None:
            raise ValueError(
                f"{type(server).__qualname__}.{name} must be {wanted}, and is {value!r}"
            )

"""Which options a server class has: attributes that are annotated with one of the table."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_args

from ..optional_ssl import has_ssl
from .keywords import ServerOptions
from .table import Option

# Only classes of this package bring options: a program's have them from these.
_PACKAGE = __name__.rpartition(".options.")[0] + "."

_MISSING = object()


@dataclass(frozen=True)
class Known:
    """An option of a class, with its type."""

    name: str
    hint: Any
    option: Option

    def wrong(self, value: object) -> str | None:
        """What is right instead, if a value makes no sense."""
        if type(None) not in get_args(self.hint):
            return self.option.check(value)
        wanted = None if value is None else self.option.check(value)
        return wanted and f"{wanted}, or None"


# Those that a class of this package brings, kept as long as it is.
_brought: dict[type, dict[str, Known]] = {}


def options_of(cls: type) -> dict[str, Known]:
    """The options that servers of a class have, by name.

    One that is declared without a value, as `max_line_size` by `BaseServer`, is an option of the
    subclasses that have one.
    """
    found: dict[str, Known] = {}
    for base in reversed(cls.__mro__):
        if str(base.__module__).startswith(_PACKAGE):
            found.update(_brought_by(base))
    names = {name for base in cls.__mro__ for name in found.keys() & vars(base).keys()}
    return {name: known for name, known in found.items() if name in names}


def _brought_by(cls: type) -> dict[str, Known]:
    if cls not in _brought:
        annotated = {
            name: get_args(_evaluated(text, cls))
            for name, text in inspect.get_annotations(cls).items()
            if str(text).startswith("Annotated[")
        }
        _brought[cls] = {name: Known(name, *args) for name, args in annotated.items()}
    return _brought[cls]


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
    for name, known in sorted(options.items()):
        # A program's property may have no value yet.
        value = getattr(server, name, _MISSING)
        wanted = None if value is _MISSING else known.wrong(value)
        if wanted is not None:
            raise ValueError(
                f"{type(server).__qualname__}.{name} must be {wanted}, and is {value!r}"
            )

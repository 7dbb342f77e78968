"""The legacy handlers of a source: which classes they are, and which belong together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import libcst as cst

from .findings import Finding
from .io_calls import ATTRIBUTES, Kind
from .names import Names

_OLD_NAME = "SocketServer is Python 2's name of the module, so this never ran on Python 3"

_HEADERS = "which reads its headers with http.client.parse_headers(self.rfile)"

# The standard library's own handlers, and what in them blocks.
_STANDARD = {
    "http.server.BaseHTTPRequestHandler": _HEADERS,
    "http.server.CGIHTTPRequestHandler": f"{_HEADERS} and runs programs with subprocess",
    "http.server.SimpleHTTPRequestHandler": (
        f"{_HEADERS} and sends files with shutil.copyfileobj(source, self.wfile)"
    ),
    "wsgiref.simple_server.WSGIRequestHandler": (
        f"{_HEADERS} and hands self.rfile and self.wfile to wsgiref.handlers"
    ),
    "xmlrpc.server.DocXMLRPCRequestHandler": f"{_HEADERS} and its body with self.rfile.read()",
    "xmlrpc.server.SimpleXMLRPCRequestHandler": f"{_HEADERS} and its body with self.rfile.read()",
}

# Names that a base class from another module has when it is a handler for sure.
_TELLING = {*ATTRIBUTES, *(name.rpartition(".")[2] for name in _STANDARD)}

_WITHOUT_IO = {"abc.ABC", "builtins.object"}


@dataclass(eq=False)
class Family:
    """Handler classes that derive from one another, and their mixins.

    They are converted together or not at all, because a method that becomes a coroutine
    has to be one in all of them. `roots` are the names of socketserver's classes that
    they come from.
    """

    classes: list[cst.ClassDef]
    roots: set[str] = field(default_factory=set[str])
    obstacles: list[Finding] = field(default_factory=list[Finding])

    @property
    def attributes(self) -> dict[str, Kind]:
        """The attributes of an instance that are I/O."""
        return {
            name: kind for root in sorted(self.roots) for name, kind in ATTRIBUTES[root].items()
        }


@dataclass(frozen=True)
class Base:
    """One base class of a class: here, or from elsewhere under one of several names."""

    node: cst.BaseExpression
    local: cst.ClassDef | None
    imported: frozenset[str]


def bases(names: Names, cls: cst.ClassDef) -> list[Base]:
    """The base classes in a `class` statement."""
    return [
        Base(arg.value, names.definition(arg.value, cst.ClassDef), names.imported(arg.value))
        for arg in cls.bases
    ]


def handler_root(imported: frozenset[str]) -> str | None:
    """Which one of socketserver's handler classes goes under these dotted names."""
    for name in ATTRIBUTES:
        if f"socketserver.{name}" in imported:
            return name
    return None


def find_families(names: Names) -> list[Family]:
    """The legacy handlers, in the order of the source."""
    classes = names.all_of(cst.ClassDef)
    handlers = _Handlers(names)
    families: dict[cst.ClassDef, Family] = {}
    for cls in classes:
        if not handlers.is_one(cls):
            continue
        family = Family([])
        for each in (cls, *local_bases(names, cls)):
            known = families.get(each)
            for member in known.classes if known else [each]:
                if member not in family.classes:
                    family.classes.append(member)
                families[member] = family
    for cls in classes:
        if cls not in families:
            for base in local_bases(names, cls):
                if base in families:
                    families[base].obstacles.append(
                        names.finding(
                            cls,
                            f"{cls.name.value} is no handler, and derives from "
                            f"{base.name.value} as well",
                        )
                    )
    found = list(dict.fromkeys(families.values()))
    for family in found:
        family.classes.sort(key=classes.index)
        for cls in family.classes:
            _look_at_bases(names, family, cls)
    return sorted(found, key=lambda family: classes.index(family.classes[0]))


def outside_bases(names: Names) -> Iterator[tuple[str, int]]:
    """The classes in other modules that handlers here derive from, and in which line."""
    handlers = _Handlers(names)
    for cls in names.all_of(cst.ClassDef):
        for base in bases(names, cls):
            if base.local is None and handlers.is_one(cls) and not handler_root(base.imported):
                line = names.finding(base.node, "").line
                for name in base.imported - _STANDARD.keys():
                    yield name.rpartition(".")[2], line


def local_bases(names: Names, cls: cst.ClassDef) -> list[cst.ClassDef]:
    """The classes of this source that `cls` derives from, whether directly or not."""
    found: list[cst.ClassDef] = []
    waiting = [cls]
    while waiting:
        for base in bases(names, waiting.pop()):
            # A class may have the name of the one from elsewhere that it derives from.
            if base.local is not None and base.local not in (cls, *found):
                found.append(base.local)
                waiting.append(base.local)
    return found


class _Handlers:
    """Tells which classes of a source are legacy handlers."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._known: dict[cst.ClassDef, bool] = {}

    def is_one(self, cls: cst.ClassDef) -> bool:
        if cls not in self._known:
            # Not of itself.
            self._known[cls] = False
            self._known[cls] = any(self._makes_one(cls, base) for base in bases(self._names, cls))
        return self._known[cls]

    def _makes_one(self, cls: cst.ClassDef, base: Base) -> bool:
        if base.local is not None:
            return self.is_one(base.local)
        if any(name.startswith("aiosocketserver.") for name in base.imported):
            # A coroutine handler; compat's names have become socketserver's.
            return False
        # The name in the source is all there is after a star import.
        known = base.imported or {self._names.code(base.node)}
        if any(name.rpartition(".")[2] in _TELLING for name in known):
            return True
        return not base.imported & _WITHOUT_IO and self._looks_like_one(cls)

    def _looks_like_one(self, cls: cst.ClassDef) -> bool:
        handles = any(
            isinstance(statement, cst.FunctionDef) and statement.name.value == "handle"
            for statement in cls.body.body
        )
        return handles and any(
            attribute.attr.value in ("request", "rfile", "wfile")
            and isinstance(attribute.value, cst.Name)
            and attribute.value.value == "self"
            for attribute in self._names.all_of(cst.Attribute, cls)
        )


def _look_at_bases(names: Names, family: Family, cls: cst.ClassDef) -> None:
    for base in bases(names, cls):
        root = handler_root(base.imported)
        if root is not None:
            family.roots.add(root)
            if {"StreamRequestHandler", "DatagramRequestHandler"} <= family.roots:
                family.obstacles.append(
                    names.finding(
                        base.node, "it shares methods with handlers of the other kind of socket"
                    )
                )
        elif base.local is None and not base.imported & _WITHOUT_IO:
            family.obstacles.append(names.finding(base.node, *_of_base(names, base)))
    for decorator in cls.decorators:
        family.obstacles.append(
            names.finding(decorator, f"{names.code(decorator)} may change any method")
        )


def _of_base(names: Names, base: Base) -> tuple[str, str]:
    """What stands in the way when a base class comes from elsewhere, and the way out."""
    for name in base.imported:
        if name.startswith("SocketServer."):
            return _OLD_NAME, "make the program run on Python 3 first"
        if name in _STANDARD:
            way_out = "it may stay as it is: legacy handlers run in threads"
            return f"{name} is the standard library's own, {_STANDARD[name]}", way_out
    known = ", ".join(sorted(base.imported)) or names.code(base.node)
    return (
        f"the base class {known} comes from elsewhere, and what it does cannot be seen",
        "migrate it first, by hand if it has to be",
    )

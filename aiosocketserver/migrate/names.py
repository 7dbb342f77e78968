"""What the names in a source stand for: through its imports, and among its own definitions."""

from __future__ import annotations

import ast
import contextlib
import functools
import warnings
from bisect import bisect_left
from collections.abc import Collection, Generator, Iterator
from typing import TypeVar, cast

import libcst as cst
from libcst.metadata import (
    Assignment,
    BaseAssignment,
    ExpressionContext,
    ExpressionContextProvider,
    ImportAssignment,
    MetadataWrapper,
    ParentNodeProvider,
    PositionProvider,
    QualifiedNameSource,
    ScopeProvider,
)

from .findings import Finding, UnreadableSource

N = TypeVar("N", bound=cst.CSTNode)

# What programs on Python 3 import as socketserver.
_SOCKETSERVER = ("aiosocketserver.compat", "future.moves.socketserver", "six.moves.socketserver")

# How the names of its classes end.
_CLASSES = ("RequestHandler", "Server", "MixIn")


def canonical(name: str) -> str:
    """A dotted name with `socketserver` in the place of other names of that module."""
    for module in _SOCKETSERVER:
        if name == module or name.startswith(f"{module}."):
            return "socketserver" + name.removeprefix(module)
    return name


def parse(source: bytes) -> cst.Module:
    """Parse it; what is no Python 3 raises UnreadableSource."""
    try:
        # Python's own parser has the better messages, and LibCST's overflows the stack
        # on what that one refuses as nested too deeply.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
        return cst.parse_module(source)
    except SyntaxError as error:
        raise UnreadableSource(error.lineno or 0, error.msg) from None
    except cst.ParserSyntaxError as error:
        # It is stricter in a few things, as the mixing of tabs and blanks.
        raise UnreadableSource(0, f"LibCST cannot read it: {error.message}") from None
    except (MemoryError, ValueError) as error:
        raise UnreadableSource(0, str(error) or type(error).__name__) from None


@contextlib.contextmanager
def deep_nesting_told() -> Generator[None]:
    """LibCST, and what is built on it, follows the nesting of a source by recursion."""
    try:
        yield
    except RecursionError:
        raise UnreadableSource(0, "it is nested too deeply") from None


def last_statement(function: cst.FunctionDef) -> cst.CSTNode:
    """What a function does last, but for a `return` without a value."""
    statements: list[cst.CSTNode] = []
    for each in function.body.body:
        statements += each.body if isinstance(each, cst.SimpleStatementLine) else [each]
    returns = isinstance(statements[-1], cst.Return) and statements[-1].value is None
    return statements[-2 if returns and len(statements) > 1 else -1]


class _Index(cst.CSTVisitor):
    """The nodes of a tree by their kinds, each with where it begins and ends among all."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[type[cst.CSTNode], list[cst.CSTNode]] = {}
        self.begins: dict[cst.CSTNode, int] = {}
        self.ends: dict[cst.CSTNode, int] = {}

    def on_visit(self, node: cst.CSTNode) -> bool:
        self.begins[node] = len(self.begins)
        self.kinds.setdefault(type(node), []).append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        self.ends[original_node] = len(self.begins)


class Names:
    """A parsed source, with the scopes of its names and the parents of its nodes."""

    def __init__(self, source: bytes) -> None:
        """Raises UnreadableSource when this is no Python 3."""
        with deep_nesting_told():
            # As it comes from the parser, no node is in the tree twice.
            wrapper = MetadataWrapper(parse(source), unsafe_skip_copy=True)
            self.module = wrapper.module
            self._parents = wrapper.resolve(ParentNodeProvider)
            self._scopes = wrapper.resolve(ScopeProvider)
            self._positions = wrapper.resolve(PositionProvider)
            self._contexts = wrapper.resolve(ExpressionContextProvider)
            self._index = _Index()
            self.module.visit(self._index)

    # The tree

    def parent(self, node: cst.CSTNode) -> cst.CSTNode:
        """What `node` is a part of."""
        return self._parents[node]

    def ancestors(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """The nodes that `node` is in, the innermost first, the module last."""
        while node is not self.module:
            node = self._parents[node]
            yield node

    def enclosing(self, node: cst.CSTNode, kind: type[N]) -> N | None:
        """The innermost node of a kind that `node` is in."""
        return next((each for each in self.ancestors(node) if isinstance(each, kind)), None)

    def scope_of(self, node: cst.CSTNode) -> cst.CSTNode:
        """What runs `node`: the innermost function, lambda, generator expression or class."""
        # The first iterable of a generator expression is evaluated around it.
        inside = [node]
        for each in self.ancestors(node):
            if isinstance(each, cst.GeneratorExp):
                if each.for_in.iter not in inside:
                    return each
            elif isinstance(each, cst.FunctionDef | cst.Lambda | cst.ClassDef):
                return each
            inside.append(each)
        return self.module

    def all_of(self, kind: type[N], within: cst.CSTNode | None = None) -> list[N]:
        """All nodes of exactly this kind, in the order of the source."""
        nodes = cast(list[N], self._index.kinds.get(kind, []))
        if within is None:
            return nodes
        first = bisect_left(nodes, self._index.begins[within], key=self._index.begins.__getitem__)
        last = bisect_left(nodes, self._index.ends[within], key=self._index.begins.__getitem__)
        return nodes[first:last]

    def code(self, node: cst.CSTNode) -> str:
        """The source of a node, on one line."""
        return " ".join(self.module.code_for_node(node).split())

    def finding(self, node: cst.CSTNode, what: str, way_out: str = "") -> Finding:
        """A finding at the place of `node`."""
        start = self._positions[node].start
        return Finding(start.line, start.column + 1, what, way_out)

    def is_loaded(self, node: cst.BaseExpression) -> bool:
        """Whether the value of this expression is used here, and not set or deleted."""
        if isinstance(node, cst.Name | cst.Attribute | cst.Subscript):
            return self._contexts.get(node) is ExpressionContext.LOAD
        return True

    def is_stored(self, node: cst.BaseExpression) -> bool:
        """Whether something is assigned to this expression."""
        return self._contexts.get(node) is ExpressionContext.STORE

    # The names

    def bindings(self, name: cst.Name) -> Collection[BaseAssignment]:
        """All that a name may have been bound to, as it is used here."""
        scope = self._scopes.get(name)
        return () if scope is None else scope[name.value]

    def global_bindings(self, name: str) -> Collection[BaseAssignment]:
        """All that a name of the module may have been bound to."""
        scope = self._scopes[self.module]
        return () if scope is None else scope[name]

    def definition(self, node: cst.CSTNode, kind: type[N]) -> N | None:
        """The class or function of this source that the name `node` stands for."""
        if isinstance(node, cst.Name):
            for binding in self.bindings(node):
                if isinstance(binding, Assignment) and isinstance(binding.node, kind):
                    return binding.node
        return None

    def imported(self, node: cst.CSTNode) -> frozenset[str]:
        """The dotted names of an imported or built-in thing; empty for everything else.

        More than one when a program imports one or the other.
        """
        base = node
        while isinstance(base, cst.Attribute):
            base = base.value
        if not isinstance(base, cst.Name):
            return frozenset()
        scope = self._scopes.get(base)
        if scope is None:
            return frozenset()
        if not scope[base.value] and self._stars and base.value.endswith(_CLASSES):
            return frozenset({f"socketserver.{self.code(node)}"})
        return frozenset(
            canonical(name.name)
            for name in scope.get_qualified_names_for(node)
            if name.source is not QualifiedNameSource.LOCAL
        )

    def references(self, statement: cst.Import | cst.ImportFrom, name: str) -> list[cst.CSTNode]:
        """Where a name that an import statement binds is used."""
        scope = self._scopes.get(statement)
        return [
            access.node
            for binding in (() if scope is None else scope[name])
            if isinstance(binding, ImportAssignment) and binding.node is statement
            for access in binding.references
        ]

    @functools.cached_property
    def _stars(self) -> bool:
        """Whether all names of socketserver are imported: `from socketserver import *`."""
        return any(
            isinstance(statement.names, cst.ImportStar)
            and statement.module is not None
            and canonical(self.code(statement.module)) == "socketserver"
            for statement in self.all_of(cst.ImportFrom)
        )

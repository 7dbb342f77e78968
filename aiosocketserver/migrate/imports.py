"""How the imports of a source change when some of its handlers become coroutine handlers.

Their bases are written `aiosocketserver.StreamRequestHandler`, whatever they were before,
so that a legacy handler beside them keeps its own. Servers come from compat.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import ImportAssignment

from .findings import Finding
from .handlers import handler_root
from .names import Names, canonical

PACKAGE = "aiosocketserver"
COMPAT = "aiosocketserver.compat"

ImportStatement = cst.Import | cst.ImportFrom


@dataclass(frozen=True)
class Imports:
    """What becomes of the names of socketserver.

    - replaced: uses of its handler classes, with what stands there instead
    - statements: import statements, with what stands there instead, maybe nothing
    - preceded: statements that `import aiosocketserver` is put before
    """

    replaced: dict[cst.CSTNode, cst.Attribute]
    statements: dict[ImportStatement, list[ImportStatement]]
    preceded: frozenset[cst.CSTNode]


def taken_names(names: Names) -> Iterator[Finding]:
    """What else in the source has the package's name."""
    for binding in names.global_bindings(PACKAGE):
        packages = {name.name for name in binding.get_qualified_names_for(PACKAGE)}
        if not isinstance(binding, ImportAssignment) or packages != {PACKAGE}:
            what = f"the name {PACKAGE} stands for something else in this source"
            yield Finding(1, 1, what)


def new_imports(names: Names, converted: Collection[cst.ClassDef]) -> Imports:
    """Have the handlers in `converted` derive from aiosocketserver's classes."""
    replaced: dict[cst.CSTNode, cst.Attribute] = {}
    for cls in converted:
        for node in (*names.all_of(cst.Attribute, cls), *names.all_of(cst.Name, cls)):
            root = handler_root(names.imported(node)) if names.is_loaded(node) else None
            if root is not None:
                replaced[node] = cst.Attribute(
                    cst.Name(PACKAGE), cst.Name(root), lpar=node.lpar, rpar=node.rpar
                )
    editor = _Editor(names, replaced)
    statements: dict[ImportStatement, list[ImportStatement]] = {}
    preceded: set[cst.CSTNode] = set()
    has_package = bool(names.global_bindings(PACKAGE))
    imports: list[ImportStatement] = [*names.all_of(cst.Import), *names.all_of(cst.ImportFrom)]
    for statement in imports:
        edited = editor.edited(statement)
        if edited != [statement]:
            statements[statement] = edited
        if not has_package and editor.brings_replaced(statement):
            preceded.add(_statement_around(names, statement))
    return Imports(replaced, statements, frozenset(preceded))


def _statement_around(names: Names, node: cst.CSTNode) -> cst.CSTNode:
    """The statement of the module or function that `node` is in, and not one inside of that."""
    around = node
    for each in names.ancestors(node):
        if isinstance(each, cst.Module):
            break
        if isinstance(each, cst.BaseSuite) and isinstance(names.parent(each), cst.FunctionDef):
            break
        around = each
    return around


class _Editor:
    """Edits import statements, as far as they bring names of socketserver."""

    def __init__(self, names: Names, replaced: dict[cst.CSTNode, cst.Attribute]) -> None:
        self._names = names
        self._replaced = replaced

    def brings_replaced(self, statement: ImportStatement) -> bool:
        """Whether handlers have had their base class from this statement."""
        if isinstance(statement.names, cst.ImportStar):
            return self._module(statement) == "socketserver" and bool(self._replaced)
        return any(
            self._is_replaced(use)
            for alias in statement.names
            for use in self._names.references(statement, _bound(alias))
        )

    def edited(self, statement: ImportStatement) -> list[ImportStatement]:
        """What stands in the place of this statement."""
        module = self._module(statement)
        if isinstance(statement.names, cst.ImportStar):
            assert isinstance(statement, cst.ImportFrom)
            return [_from_compat(statement) if module == "socketserver" else statement]
        kept: list[cst.ImportAlias] = []
        added: list[ImportStatement] = []
        serves = False
        for alias in statement.names:
            full = f"{module}.{alias.evaluated_name}" if module else alias.evaluated_name
            uses = self._names.references(statement, _bound(alias))
            left = [use for use in uses if not self._is_replaced(use)]
            if "socketserver" not in (module, canonical(full)):
                kept.append(alias)
            elif uses and not left and "#" not in self._names.module.code_for_node(alias):
                continue
            elif canonical(full) != "socketserver":
                kept.append(alias)
                serves = serves or (bool(left) and not handler_root(frozenset({canonical(full)})))
            elif full != COMPAT and any(not self._is_handler(use) for use in left):
                added.append(_import_compat(_bound(alias)))
            else:
                kept.append(alias)
        if not kept:
            return added
        if len(kept) < len(statement.names):
            statement = _with_names(statement, kept)
        if serves and isinstance(statement, cst.ImportFrom):
            statement = _from_compat(statement)
        return [statement, *added]

    def _module(self, statement: ImportStatement) -> str:
        """The module whose names a statement imports; empty when it imports modules."""
        if isinstance(statement, cst.Import):
            return ""
        module = "" if statement.module is None else self._names.code(statement.module)
        return canonical("." * len(statement.relative) + module)

    def _is_replaced(self, use: cst.CSTNode) -> bool:
        return use in self._replaced or self._names.parent(use) in self._replaced

    def _is_handler(self, use: cst.CSTNode) -> bool:
        """Whether a use of the module is one of its handler classes."""
        return handler_root(self._names.imported(self._names.parent(use))) is not None


def _bound(alias: cst.ImportAlias) -> str:
    return alias.evaluated_alias or alias.evaluated_name


def _with_names(statement: ImportStatement, kept: list[cst.ImportAlias]) -> ImportStatement:
    in_parentheses = isinstance(statement, cst.ImportFrom) and statement.lpar is not None
    if kept and not in_parentheses:
        kept = [*kept[:-1], kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)]
    return statement.with_changes(names=kept)


def _from_compat(statement: cst.ImportFrom) -> cst.ImportFrom:
    module = cst.Attribute(cst.Name(PACKAGE), cst.Name("compat"))
    return statement.with_changes(module=module, relative=())


def _import_compat(name: str) -> cst.ImportFrom:
    alias = cst.ImportAlias(cst.Name("compat"), cst.AsName(cst.Name(name)))
    if name == "compat":
        alias = cst.ImportAlias(cst.Name("compat"))
    return cst.ImportFrom(cst.Name(PACKAGE), [alias])

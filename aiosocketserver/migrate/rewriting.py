"""Writes the coroutine handlers: what is not concerned stays as it is, to the last blank."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import libcst as cst

from .imports import PACKAGE, Imports, ImportStatement
from .names import Names

Statement = cst.SimpleStatementLine | cst.BaseCompoundStatement


@dataclass(frozen=True)
class Changes:
    """What is to be changed: functions and loops get an `async`, calls an `await`."""

    functions: Collection[cst.FunctionDef]
    awaited: Collection[cst.Call | cst.For | cst.CompFor]
    imports: Imports


def rewritten(names: Names, changes: Changes) -> bytes:
    """The source with the changes, in its own encoding and with its own ends of lines."""
    module = names.module.visit(_Rewriter(names, changes))
    return module.bytes


class _Rewriter(cst.CSTTransformer):
    def __init__(self, names: Names, changes: Changes) -> None:
        super().__init__()
        self._changes = changes
        # `await` binds less than what follows a call: (await f()).strip().
        self._in_parentheses = {
            call
            for call in changes.awaited
            if isinstance(names.parent(call), cst.Attribute | cst.Subscript | cst.Call)
        }

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        if original_node not in self._changes.functions:
            return updated_node
        return updated_node.with_changes(asynchronous=cst.Asynchronous())

    def leave_For(self, original_node: cst.For, updated_node: cst.For) -> cst.For:
        if original_node not in self._changes.awaited:
            return updated_node
        return updated_node.with_changes(asynchronous=cst.Asynchronous())

    def leave_CompFor(self, original_node: cst.CompFor, updated_node: cst.CompFor) -> cst.CompFor:
        if original_node not in self._changes.awaited:
            return updated_node
        return updated_node.with_changes(asynchronous=cst.Asynchronous())

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        if original_node not in self._changes.awaited:
            return updated_node
        lpar, rpar = updated_node.lpar, updated_node.rpar
        if original_node in self._in_parentheses and not lpar:
            lpar, rpar = [cst.LeftParen()], [cst.RightParen()]
        return cst.Await(updated_node.with_changes(lpar=(), rpar=()), lpar=lpar, rpar=rpar)

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        return self._changes.imports.replaced.get(original_node, updated_node)

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        return self._changes.imports.replaced.get(original_node, updated_node)

    # Import statements, in the blocks that they are in

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        return updated_node.with_changes(body=self._edited(original_node.body, updated_node.body))

    def leave_IndentedBlock(
        self, original_node: cst.IndentedBlock, updated_node: cst.IndentedBlock
    ) -> cst.IndentedBlock:
        # LibCST types both as it might let somebody build them.
        originals = cast(Sequence[Statement], original_node.body)
        statements = cast(Sequence[Statement], updated_node.body)
        return updated_node.with_changes(body=self._edited(originals, statements))

    def leave_SimpleStatementSuite(
        self, original_node: cst.SimpleStatementSuite, updated_node: cst.SimpleStatementSuite
    ) -> cst.SimpleStatementSuite:
        # `try: import socketserver`, all on one line.
        body = self._edited_in_line(original_node.body, updated_node.body)
        return updated_node.with_changes(body=body) if body else updated_node

    def _edited(
        self, originals: Sequence[Statement], statements: Sequence[Statement]
    ) -> list[Statement]:
        """A block with its new import statements, each in the place of the old one."""
        edited: list[Statement] = []
        # Blank lines before a statement that has gone are those of the next one.
        blank: Sequence[cst.EmptyLine] = ()
        for original, statement in zip(originals, statements, strict=True):
            new = self._edited_statement(original, statement)
            if not new and (len(originals) == 1 or _has_comment(statement)):
                new = [statement]
            if not new:
                blank = blank or statement.leading_lines
                continue
            before = statement.leading_lines or blank
            edited.append(new[0].with_changes(leading_lines=before))
            edited += [each.with_changes(leading_lines=()) for each in new[1:]]
            blank = ()
        return edited

    def _edited_statement(self, original: Statement, statement: Statement) -> list[Statement]:
        package: list[cst.BaseSmallStatement] = []
        if original in self._changes.imports.preceded:
            package = [cst.Import([cst.ImportAlias(cst.Name(PACKAGE))])]
        if isinstance(original, cst.SimpleStatementLine) and isinstance(
            statement, cst.SimpleStatementLine
        ):
            body = self._edited_in_line(original.body, statement.body)
            if len(original.body) == 1:
                # On lines of their own; the last one keeps the comment.
                body = [*package, *body]
                kept = [statement.with_changes(body=body[-1:])] if body else []
                return [*map(_line, body[:-1]), *kept]
            statement = statement.with_changes(body=body)
        return [*map(_line, package), statement]

    def _edited_in_line(
        self,
        originals: Sequence[cst.BaseSmallStatement],
        statements: Sequence[cst.BaseSmallStatement],
    ) -> list[cst.BaseSmallStatement]:
        edited: list[cst.BaseSmallStatement] = []
        imports = self._changes.imports.statements
        for original, statement in zip(originals, statements, strict=True):
            if isinstance(original, ImportStatement) and original in imports:
                edited += imports[original]
            else:
                edited.append(statement)
        return edited


def _line(statement: cst.BaseSmallStatement) -> cst.SimpleStatementLine:
    return cst.SimpleStatementLine([statement])


def _has_comment(statement: Statement) -> bool:
    return "#" in cst.Module([statement]).code

"""What the command `migrate` does: reads, rewrites, and tells what it did."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import files
from .findings import HandlerReport, Migration, UnreadableSource
from .handlers import outside_bases
from .migrating import migrate
from .names import Names

# The exit codes: whether legacy handlers are left, and whether something went wrong.
NONE_LEFT = 0
SOME_LEFT = 1
FAILED = 2


def run(paths: Sequence[Path], *, write: bool, force: bool) -> int:
    """Migrate these files and what is in these folders; the exit code.

    The differences go to standard output, what is told of the handlers to standard error.
    """
    given = _Files()
    parsed: dict[Path, Names] = {}
    for path in files.python_files(paths):
        names = given.read(path, always=path in paths)
        if names is not None:
            parsed[path] = names
    derived = {path: [*outside_bases(names)] for path, names in parsed.items()}
    reports: list[HandlerReport] = []
    for path, names in parsed.items():
        elsewhere = {
            name: f"{other}:{line}"
            for other, found in derived.items()
            if other != path
            for name, line in found
        }
        migration = given.migrated(path, names, elsewhere, force=force)
        if migration is None:
            continue
        before, after = names.module.bytes, migration.source
        if not write:
            sys.stdout.buffer.write(files.diff(path, before, after))
            sys.stdout.buffer.flush()
        elif after != before and not given.replace(path, after):
            continue
        for report in migration.reports:
            for line in lines(path, report):
                _tell(line)
        reports += migration.reports
    _tell(_summary(reports))
    if given.failed:
        return FAILED
    left = any(not (report.converted and write) for report in reports)
    return SOME_LEFT if left else NONE_LEFT


class _Files:
    """Reads and replaces files; one that fails is told, and keeps no other one."""

    failed = False

    def read(self, path: Path, *, always: bool) -> Names | None:
        """The parsed file; None also for one without handlers, unless `always`."""
        try:
            source = path.read_bytes()
            return Names(source) if always or files.mentions_handlers(source) else None
        except UnreadableSource as error:
            self._fail(f"{path}:{error.line or 1}: not read: {error}")
        except OSError as error:
            self._fail(f"{path}: not read: {error.strerror}")
        return None

    def migrated(
        self, path: Path, names: Names, derived_elsewhere: dict[str, str], *, force: bool
    ) -> Migration | None:
        """The migration of a parsed file, if it can be had."""
        try:
            return migrate(names, derived_elsewhere=derived_elsewhere, force=force)
        except UnreadableSource as error:
            self._fail(f"{path}:1: not read: {error}")
            return None

    def replace(self, path: Path, content: bytes) -> bool:
        """Whether it could be."""
        try:
            files.replace(path, content)
        except OSError as error:
            self._fail(f"{path}: not written: {error.strerror}")
            return False
        return True

    def _fail(self, what: str) -> None:
        _tell(what)
        self.failed = True


def lines(path: Path, report: HandlerReport) -> Iterator[str]:
    """What is told of a handler: each line begins with its place, as compilers have it."""
    if report.converted:
        verdict = "converted"
    elif report.obstacles:
        verdict = "declined, because of:"
    else:
        verdict = "declined without --force, because of:"
    yield f"{path}:{report.line}:{report.column}: {', '.join(report.handlers)}: {verdict}"
    for finding in (*report.obstacles, *report.blocking):
        way_out = f" - {finding.way_out}" if finding.way_out else ""
        yield f"{path}:{finding.line}:{finding.column}: {finding.what}{way_out}"
    for finding in report.notes if report.converted else ():
        way_out = f" - {finding.way_out}" if finding.way_out else ""
        yield f"{path}:{finding.line}:{finding.column}: note: {finding.what}{way_out}"


def _summary(reports: Sequence[HandlerReport]) -> str:
    converted = sum(len(report.handlers) for report in reports if report.converted)
    declined = sum(len(report.handlers) for report in reports if not report.converted)
    if not reports:
        return "no legacy handlers"
    number = converted + declined
    handlers = "1 legacy handler" if number == 1 else f"{number} legacy handlers"
    return f"{handlers}: {converted} converted, {declined} declined"


def _tell(line: str) -> None:
    print(line, file=sys.stderr)

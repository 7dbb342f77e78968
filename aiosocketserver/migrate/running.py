"""What the command `migrate` does: reads, rewrites, and tells what it did."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import files
from .findings import HandlerReport, UnreadableSource
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
    code = NONE_LEFT
    parsed: dict[Path, Names] = {}
    for path in files.python_files(paths):
        try:
            source = path.read_bytes()
            if path in paths or files.mentions_handlers(source):
                parsed[path] = Names(source)
        except UnreadableSource as error:
            _tell(f"{path}:{error.line or 1}: not read: {error}")
            code = FAILED
        except OSError as error:
            _tell(f"{path}: not read: {error.strerror}")
            code = FAILED
    # Each with what other sources derive from its classes.
    derived = [
        (name, path, line) for path, names in parsed.items() for name, line in outside_bases(names)
    ]
    converted = left = 0
    for path, names in parsed.items():
        elsewhere = {name: f"{other}:{line}" for name, other, line in derived if other != path}
        migration = migrate(names, derived_elsewhere=elsewhere, force=force)
        if migration.source != names.module.bytes:
            if write:
                try:
                    files.replace(path, migration.source)
                except OSError as error:
                    _tell(f"{path}: not written: {error.strerror}")
                    code = FAILED
                    continue
            else:
                sys.stdout.buffer.write(files.diff(path, names.module.bytes, migration.source))
                sys.stdout.buffer.flush()
        for report in migration.reports:
            for line in lines(path, report):
                _tell(line)
            if report.converted:
                converted += len(report.handlers)
            else:
                left += len(report.handlers)
    _tell(_summary(converted, left))
    if code == NONE_LEFT and (left or (converted and not write)):
        return SOME_LEFT
    return code


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


def _summary(converted: int, left: int) -> str:
    if not converted and not left:
        return "no legacy handlers"
    handlers = (
        "1 legacy handler" if converted + left == 1 else f"{converted + left} legacy handlers"
    )
    return f"{handlers}: {converted} converted, {left} declined"


def _tell(line: str) -> None:
    print(line, file=sys.stderr)

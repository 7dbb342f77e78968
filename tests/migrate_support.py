"""What the tests of the migration share: sources in, sources and findings out."""

import textwrap

from aiosocketserver.migrate.findings import Finding, HandlerReport, Migration
from aiosocketserver.migrate.migrating import migrate
from aiosocketserver.migrate.names import Names


def migrated(source: str | bytes, *, force: bool = False) -> Migration:
    """The migration of a source, which may be indented as a whole."""
    if isinstance(source, str):
        source = textwrap.dedent(source).encode()
    return migrate(Names(source), force=force)


def after(source: str, *, force: bool = False) -> str:
    """The source after the migration, of which each handler has to be converted."""
    migration = migrated(source, force=force)
    assert migration.reports
    for report in migration.reports:
        assert report.converted, told(report.obstacles + report.blocking)
    text = migration.source.decode()
    compile(text, "migrated", "exec")
    # Once more changes nothing.
    again = migrated(text)
    assert (again.source.decode(), again.reports) == (text, ())
    return text


def report(source: str, *, force: bool = False) -> HandlerReport:
    """What is told of the only handler of a source."""
    (only,) = migrated(source, force=force).reports
    return only


def declined(source: str) -> HandlerReport:
    """What is told of the only handler, with which nothing must have been done."""
    migration = migrated(source)
    (only,) = migration.reports
    assert not only.converted
    assert migration.source == textwrap.dedent(source).encode()
    return only


def told(findings: tuple[Finding, ...]) -> list[str]:
    """Findings as the command tells them, without their columns."""
    return [
        f"{each.line}: {each.what}" + (f" - {each.way_out}" if each.way_out else "")
        for each in findings
    ]

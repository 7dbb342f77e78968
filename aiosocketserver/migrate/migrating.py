"""From a source to the source with its handlers migrated, and what is told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .blocking import blocking_in
from .coroutines import Coroutines, coroutines_of
from .findings import Finding, HandlerReport, Migration
from .handlers import Family, find_families
from .imports import new_imports, taken_names
from .names import Names, deep_nesting_told
from .notes import notes_of
from .protocol import protocol_obstacles
from .rewriting import Changes, rewritten
from .servers import Servers
from .uses import uses_of

_NOTHING = Coroutines(frozenset(), frozenset(), ())


@dataclass
class _Judged:
    """A family with all that was found in it, and what would become coroutines."""

    family: Family
    coroutines: Coroutines = _NOTHING
    obstacles: list[Finding] = field(default_factory=list[Finding])
    blocking: list[Finding] = field(default_factory=list[Finding])
    notes: list[Finding] = field(default_factory=list[Finding])


def migrate(
    names: Names, *, derived_elsewhere: Mapping[str, str] | None = None, force: bool = False
) -> Migration:
    """Rewrite those legacy handlers of a source of which it can be proved to be right.

    `derived_elsewhere` tells of classes from which others derive in other sources, and
    where. With `force` calls that would stop the loop do not count.

    Raises UnreadableSource when it is nested too deeply.
    """
    with deep_nesting_told():
        return _migrate(names, derived_elsewhere or {}, force=force)


def _migrate(names: Names, derived_elsewhere: Mapping[str, str], *, force: bool) -> Migration:
    servers = Servers(names)
    all_judged = [_judged(names, servers, family) for family in find_families(names)]
    for judged in all_judged:
        for cls in judged.family.classes:
            where = derived_elsewhere.get(cls.name.value)
            if where is not None:
                what = f"{where} derives from {cls.name.value}, and would have to follow"
                judged.obstacles.append(names.finding(cls.name, what))
    accepted = [
        judged for judged in all_judged if not judged.obstacles and (force or not judged.blocking)
    ]
    source = names.module.bytes
    if accepted:
        functions = [each for judged in accepted for each in judged.coroutines.functions]
        awaited = [each for judged in accepted for each in judged.coroutines.awaited]
        classes = [cls for judged in accepted for cls in judged.family.classes]
        changes = Changes(frozenset(functions), frozenset(awaited), new_imports(names, classes))
        source = rewritten(names, changes)
    reports = [_report(names, judged, judged in accepted) for judged in all_judged]
    return Migration(source, tuple(reports))


def _judged(names: Names, servers: Servers, family: Family) -> _Judged:
    judged = _Judged(family, obstacles=[*family.obstacles])
    if not family.roots:
        # Its base class says it all.
        return judged
    uses = uses_of(names, family)
    judged.coroutines = coroutines_of(names, uses)
    targets = frozenset(each.name.value for each in judged.coroutines.functions)
    judged.obstacles += uses.obstacles
    judged.obstacles += judged.coroutines.obstacles
    judged.obstacles += protocol_obstacles(names, family, uses)
    judged.obstacles += servers.obstacles(family, targets)
    judged.obstacles += taken_names(names)
    judged.blocking += blocking_in(names, family, uses)
    judged.notes += servers.notes(family)
    judged.notes += notes_of(names, family, uses, judged.coroutines, forks=servers.fork)
    return judged


def _report(names: Names, judged: _Judged, converted: bool) -> HandlerReport:
    classes = judged.family.classes
    place = names.finding(classes[0], "")
    return HandlerReport(
        handlers=tuple(cls.name.value for cls in classes),
        line=place.line,
        column=place.column,
        converted=converted,
        obstacles=_in_order(judged.obstacles),
        blocking=_in_order(judged.blocking),
        notes=_in_order(judged.notes),
    )


def _in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(set(findings)))

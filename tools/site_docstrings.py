"""Docstrings on the reference pages of the site: as Markdown, and none may be missing."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

# Its keys are described in a table of their own: docs/reference/options.md.
_TABLED = "ServerOptions"


class Docstrings(griffe.Extension):
    """Changes each docstring before it is rendered.

    They are written to be read in a terminal. Here the names that their lists begin with
    are put in code, and the public names that they mention become links.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring is None:
            return
        public = obj.package.exports or []

        def link(match: re.Match[str]) -> str:
            name = match[1]
            return f"[`{name}`][aiosocketserver.{name}]" if name in public else match[0]

        text = re.sub(r"^- ([^`\n]+?): ", r"- `\1`: ", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = re.sub(r"`(\w+)`", link, text)


def undocumented(package: griffe.Module, name: str) -> Iterator[str]:
    """The name, and those of its public members, that nobody has described.

    An attribute may be in a list of its class's docstring, as socketserver has them, or be an
    option, which is described in the table of options.
    """
    thing = _defined(package[name])
    if not thing.has_docstring:
        yield name
    if not isinstance(thing, griffe.Class) or name == _TABLED:
        return
    listed = _names_in_lists(thing)
    for member in map(_defined, {**thing.inherited_members, **thing.members}.values()):
        private = any(part.startswith("_") for part in member.path.split(".")[-2:])
        described = member.has_docstring or (
            member.is_attribute and (member.name in listed or _is_option(thing, member.name))
        )
        if not (private or described):
            yield f"{name}.{member.name}"


def _is_option(cls: griffe.Class, name: str) -> bool:
    """Whether a class, or a base of it, declares an attribute as an option."""
    declared = [each.members[name] for each in (cls, *cls.mro()) if name in each.members]
    return any("option." in str(getattr(each, "annotation", "")) for each in declared)


def _defined(found: griffe.Object | griffe.Alias) -> griffe.Object:
    """What was found, where it is defined."""
    return found.final_target if isinstance(found, griffe.Alias) else found


def _names_in_lists(cls: griffe.Class) -> set[str]:
    """The attributes that the docstring of a class, or of a base of it, has a list of."""
    return {
        attribute
        for each in (cls, *cls.mro())
        if each.docstring is not None
        for names in re.findall(r"^- ([\w, ]+): ", each.docstring.value, re.MULTILINE)
        for attribute in names.split(", ")
    }

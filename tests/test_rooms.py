"""The rooms of the package: imports run downwards only, and nowhere in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAME = "aiosocketserver"

# From the ground up: a room imports those before it, for types too. "" is the face, the package
# itself. Whoever opens CONTRIBUTING.md sees what each is for.
ROOMS = [
    "errors",
    "version",
    "cpython",
    "optional_ssl",
    "logs",
    "options",
    "sockets",
    "requests",
    "servers",
    "greenlets",
    "mixed_servers",
    "compat",
    "migrate",
    "deploy",
    "",
    "pytest_plugin",
    "__main__",
]


def modules() -> dict[str, Path]:
    """Each module of the package, by its dotted name without the package's own."""
    found = {}
    for folder, name in ((ROOT / NAME, ()), (ROOT / "compat", ("compat",))):
        for path in folder.rglob("*.py"):
            parts = (*name, *path.relative_to(folder).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts = parts[:-1]
            if "compat" not in parts[1:] and "in_subprocesses" not in parts:
                found[".".join(parts)] = path
    return found


MODULES = modules()


def imported(name: str, path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, for types and in functions too."""
    package = [NAME, *name.split(".")] if name else [NAME]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (known(each.name.split(".")) for each in node.names if of_package(each.name))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            if base[0] == NAME:
                yield from (known([*base, each.name]) for each in node.names)


def of_package(name: str) -> bool:
    return name.partition(".")[0] == NAME


def known(parts: list[str]) -> str:
    """The module that is meant: what follows it is a name in it."""
    name = ".".join(parts[1:])
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


IMPORTS = {name: set(imported(name, path)) - {name} for name, path in MODULES.items()}


def floor(name: str) -> int:
    return ROOMS.index(name.partition(".")[0])


def test_every_room_is_known() -> None:
    assert {name.partition(".")[0] for name in MODULES} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_downwards(name: str) -> None:
    assert [each for each in IMPORTS[name] if floor(each) > floor(name)] == []


def test_nothing_is_imported_in_a_circle() -> None:
    left = {name: set(others) for name, others in IMPORTS.items()}
    # Take away what imports nothing that is left, until nothing can be.
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}

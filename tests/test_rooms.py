"""The rooms of the package: imports run downwards only, and nowhere in a circle."""

import pytest

from tools.rooms import IMPORTS, MODULES, PAGE, drawing, room_of

# From the ground up: a room imports those before it, for types too. The package itself is "".
ROOMS = [
    "errors",
    "version",
    "cpython",
    "signal_wakeups",
    "compiled_sources",
    "compiled",
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


def floor(module: str) -> int:
    return ROOMS.index(room_of(module))


def test_every_room_is_known() -> None:
    assert {room_of(name) for name in MODULES} == set(ROOMS)


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


def test_the_picture_of_them_is_drawn_from_the_code() -> None:
    """`python tools/rooms.py` draws it again."""
    assert f"```mermaid\n{drawing()}```" in PAGE.read_text()

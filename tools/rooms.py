"""The rooms of the package and who imports whom, read from the code.

`python tools/rooms.py` draws them again in CONTRIBUTING.md; tests/test_rooms.py holds the order.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "aiosocketserver"
PAGE = ROOT / "CONTRIBUTING.md"
_DRAWN = re.compile(r"(?<=```mermaid\n).*?(?=```)", re.DOTALL)


def _modules() -> dict[str, Path]:
    found = {}
    # compat is in the package by a link.
    for folder, prefix in ((ROOT / NAME, ()), (ROOT / "compat", ("compat",))):
        for path in folder.rglob("*.py"):
            inner = path.relative_to(folder).with_suffix("").parts
            if "in_subprocesses" in inner or inner[0] == "compat":
                continue
            parts = (*prefix, *inner)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


# Each module, by its dotted name without the package's own; the package itself is "".
MODULES = _modules()


def _known(parts: list[str]) -> str:
    """The module that is meant: what follows it is a name in it."""
    name = ".".join(parts[1:])
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def _imports(name: str, path: Path) -> Iterator[str]:
    package = [NAME, *name.split(".")] if name else [NAME]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            parts = [each.name.split(".") for each in node.names]
            yield from (_known(each) for each in parts if each[0] == NAME)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = base + node.module.split(".") if node.module else base
            if base[0] == NAME:
                yield from (_known([*base, each.name]) for each in node.names)


# What each imports of the package, for types and within functions too.
IMPORTS = {name: set(_imports(name, path)) - {name} for name, path in MODULES.items()}


def room_of(module: str) -> str:
    """The room that a module is in."""
    return module.partition(".")[0]


def _room_imports() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {room_of(name): set() for name in MODULES}
    for name, others in IMPORTS.items():
        rooms[room_of(name)] |= {room_of(each) for each in others} - {room_of(name)}
    return rooms


def drawing() -> str:
    """The rooms as a Mermaid graph; an arrow that follows from others is left out."""
    direct = _room_imports()
    beyond: dict[str, set[str]] = {}

    def reached(room: str) -> set[str]:
        if room not in beyond:
            # In a circle, which tests/test_rooms.py tells of, only what was found so far.
            beyond[room] = set()
            beyond[room] = direct[room].union(*(reached(each) for each in direct[room]))
        return beyond[room]

    lines = ["graph TD"]
    for room in sorted(direct):
        shorter = set[str]().union(*(reached(each) for each in direct[room]))
        nearest = sorted(direct[room] - shorter)
        lines += [f"    {room or NAME} --> {other or NAME}" for other in nearest]
    return "\n".join(lines) + "\n"


def main() -> None:
    page = PAGE.read_text()
    PAGE.write_text(_DRAWN.sub(lambda _: drawing(), page, count=1))


if __name__ == "__main__":
    main()

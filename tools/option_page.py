"""The table of options in docs/reference/options.md, made from the code.

`python tools/option_page.py` writes it again; tests/pages/test_reference.py compares them.
"""

import enum
import re
from pathlib import Path

from aiosocketserver.deploy.settings import options_and_defaults
from aiosocketserver.options import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "options.md"
HEAD = "| option | default | in socketserver | what it is, and why it differs |\n"
_TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)+")


def written() -> str:
    """The table, in the order of the module `table`."""
    known = options_and_defaults()
    lines = [HEAD, "| --- | --- | --- | --- |\n"]
    for name, option in vars(table).items():
        if isinstance(option, table.Option):
            default = f"{_shown(known[name][1])}{option.note}"
            lines.append(f"| `{name}` | {default} | {option.there} | {option.help} |\n")
    return "".join(lines)


def _shown(default: object) -> str:
    match default:
        case enum.Enum():
            return f"`{default.name}`"
        case bool() | None | tuple():
            return f"`{default!r}`"
        case int() if default >= 1 << 20:
            return f"{default >> 20} MiB"
        case int() if default >= 64 << 10:
            return f"{default >> 10} KiB"
        case int() | float():
            return f"{default:g}"
        case _:
            return f'`"{default}"`'


def main() -> None:
    page, number = _TABLE.subn(lambda _: written(), PAGE.read_text())
    assert number == 1, f"{PAGE} has no table of options"
    PAGE.write_text(page)


if __name__ == "__main__":
    main()

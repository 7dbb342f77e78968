"""The table of options in docs/reference/options.md, made from the code.

`python tools/option_page.py` writes it again; tests/pages/test_reference.py compares them.
"""

import re
from pathlib import Path

from aiosocketserver import ForkingMixIn, TCPServer, ThreadingMixIn, UDPServer
from aiosocketserver.options import table
from aiosocketserver.options.of_classes import Known, options_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "options.md"
HEAD = "| option | default | in socketserver | what it is, and why it differs |\n"
_TABLE = re.compile(re.escape(HEAD) + r"(?:\|.*\n)+")


def written() -> str:
    """The table, in the order of the module `table`."""
    known: dict[str, Known] = {}
    # Of an option that several have, the last one's default is shown.
    for cls in (UDPServer, ForkingMixIn, ThreadingMixIn, TCPServer):
        known.update(options_of(cls))
    lines = [HEAD, "| --- | --- | --- | --- |\n"]
    for name, option in vars(table).items():
        if isinstance(option, table.Option):
            default = option.shown or _shown(known[name].default)
            lines.append(f"| `{name}` | {default} | {option.there} | {option.help} |\n")
    return "".join(lines)


def _shown(default: object) -> str:
    is_number = isinstance(default, int) and not isinstance(default, bool)
    return f"{default}" if is_number else f"`{default!r}`"


def main() -> None:
    PAGE.write_text(_TABLE.sub(lambda _: written(), PAGE.read_text()))


if __name__ == "__main__":
    main()

"""The source files that the migration reads and replaces."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from difflib import diff_bytes, unified_diff
from pathlib import Path

# No handler can do without one of them.
_MENTIONED = (b"socketserver", b"SocketServer", b"RequestHandler")


def python_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files among `paths`, and all *.py in the folders among them.

    Hidden folders and virtual environments are left out; links are not followed.
    """
    for path in paths:
        if path.is_dir():
            yield from _in_folder(path)
        else:
            yield path


def mentions_handlers(source: bytes) -> bool:
    """Whether a source may have to do with handlers; most need not be parsed."""
    return any(name in source for name in _MENTIONED)


def _in_folder(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            each
            for each in folders
            if not each.startswith(".") and not Path(root, each, "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            path = Path(root, name)
            if path.suffix == ".py" and not path.is_symlink():
                yield path


def replace(path: Path, content: bytes) -> None:
    """Put `content` in the place of a file, all of it or nothing; its mode stays."""
    target = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        shutil.copymode(target, name)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def diff(path: Path, before: bytes, after: bytes) -> bytes:
    """What changes, in the form that `patch -p0` takes."""
    name = os.fsencode(path)
    lines = diff_bytes(unified_diff, [*io.BytesIO(before)], [*io.BytesIO(after)], name, name)
    return b"".join(
        line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
        for line in lines
    )

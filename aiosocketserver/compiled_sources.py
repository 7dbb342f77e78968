"""What the compiled core was built of: for the build, and for the look at what it has made.

It imports nothing of the package: the build runs it without installing that.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def checksum(folder: str) -> str:
    """Of the names and the text of all sources in C."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.[ch]")):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()

"""The files of a folder: which one the path of a URL names, and what HTTP tells about it."""

import errno
import mimetypes
import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

# What the system says of a path that leads nowhere, or where this process may not go.
NOT_THERE = {
    errno.EACCES,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENXIO,
}


@dataclass
class StaticFile:
    """A file that is open, for the caller to close."""

    file: BinaryIO
    size: int
    content_type: str
    etag: str
    modified: int
    """Seconds since 1970."""

    def headers(self) -> dict[str, str]:
        """What an answer that has the file tells of it."""
        about = {"Content-Type": self.content_type, "Content-Length": str(self.size)}
        return about | self.validators()

    def validators(self) -> dict[str, str]:
        """What a client that keeps the file can ask with whether it is still the same."""
        return {
            "ETag": self.etag,
            "Last-Modified": formatdate(self.modified, usegmt=True),
            "Cache-Control": "no-cache",
        }

    def is_known(self, headers: dict[bytes, bytes]) -> bool:
        """Whether who sends these headers has the file as it is (RFC 9110, 13.2.2)."""
        if b"if-none-match" in headers:
            tags = headers[b"if-none-match"].decode("latin-1").split(",")
            return not {"*", self.etag}.isdisjoint(tag.strip().removeprefix("W/") for tag in tags)
        try:
            date = parsedate_to_datetime(headers.get(b"if-modified-since", b"").decode("latin-1"))
        except (ValueError, OverflowError):
            return False
        # All dates of HTTP are UTC; one of its three formats does not say so.
        return self.modified <= date.replace(tzinfo=UTC).timestamp()


def open_file(folder: Path, path: str) -> StaticFile | None:
    """Open what the path of a URL names in `folder`, which is absolute and without links.

    None when there is nothing, or nothing that is for everybody: only regular files that
    are in the folder, also when links are followed, and whose path has no name with a dot
    in front.
    """
    names = os.fsdecode(unquote_to_bytes(path)).split("/")
    if not names[-1]:
        names[-1] = "index.html"
    try:
        found = Path(os.path.realpath(folder.joinpath(*names), strict=True))
        names += found.relative_to(folder).parts
        if any(name.startswith(".") for name in names):
            return None
        file = open(found, "rb", buffering=0, opener=open_at_once)  # noqa: SIM115
    except ValueError:
        # A NUL in a name, or `found` is somewhere else.
        return None
    except OSError as error:
        if error.errno in NOT_THERE:
            return None
        raise
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        return None
    return StaticFile(
        file,
        status.st_size,
        content_type(found.name),
        f'"{status.st_mtime_ns:x}-{status.st_size:x}"',
        int(min(status.st_mtime, time.time())),
    )


def open_at_once(path: str, flags: int) -> int:
    """Open a file, and do not wait for somebody to write to it when it is a FIFO."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def content_type(name: str) -> str:
    """The type of a file as its name tells it."""
    kind, encoding = mimetypes.guess_type(name)
    if kind is None or encoding is not None:
        return "application/octet-stream"
    is_text = kind.startswith("text/") or kind == "application/javascript"
    return f"{kind}; charset=utf-8" if is_text else kind

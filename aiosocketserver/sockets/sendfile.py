"""Sending files: `sendfile` of `socket.socket`, awaited."""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import IO

from .core import WRITE_LIMIT, StreamCore

_BLOCK = 1024 * 1024
# What sendfile(2) says of a file whose file system cannot do it.
_CANNOT_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS})


async def send_file(sock: StreamCore, file: IO[bytes], offset: int, count: int | None) -> int:
    """Send a file by sendfile(2) if it can be, or block by block; how many bytes."""
    if "b" not in getattr(file, "mode", "b"):
        raise ValueError(f"file should be opened in binary mode, not {file.mode!r}")
    if count is not None and count <= 0:
        raise ValueError(f"count must be positive or None, not {count!r}")
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError):
        return await _send_blocks(sock, file, offset, count)
    if sock._tls is not None:
        # The kernel does not encrypt.
        return await _send_blocks(sock, file, offset, count)
    # A file of /proc says that it has no bytes and gives some when it is read.
    if not (stat.S_ISREG(status.st_mode) and status.st_size):
        return await _send_blocks(sock, file, offset, count)
    total = 0
    sock._begin_sending()
    try:
        while count is None or total < count:
            block = _BLOCK if count is None else min(_BLOCK, count - total)
            call = _sendfile, sock, file, offset + total, block
            sent = await sock._send_once(functools.partial(sock._try_send, *call))
            if not sent:
                break
            total += sent
        return total
    except OSError as error:
        if total or error.errno not in _CANNOT_SENDFILE:
            raise
    finally:
        sock._end_sending()
        if total:
            file.seek(offset + total)
    return await _send_blocks(sock, file, offset, count)


def _sendfile(sock: StreamCore, file: IO[bytes], offset: int, count: int) -> int:
    # Descriptors are looked up at each call: one kept over a wait could be
    # somebody else's by now.
    return os.sendfile(sock._sock.fileno(), file.fileno(), offset, count)


async def _send_blocks(sock: StreamCore, file: IO[bytes], offset: int, count: int | None) -> int:
    total = 0
    sock._begin_sending()
    try:
        if offset:
            file.seek(offset)
        while count is None or total < count:
            size = WRITE_LIMIT if count is None else min(WRITE_LIMIT, count - total)
            if not (block := file.read(size)):
                break
            await sock._send_rest(block, sock._try_send(sock._sock.send, block, 0), 0)
            total += len(block)
        return total
    finally:
        sock._end_sending()

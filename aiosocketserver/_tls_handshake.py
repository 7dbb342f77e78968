"""The TLS handshake of a connection that a legacy handler gets, on the loop.

A thread or a child for each client that opens a connection and says nothing would be
an easy way to use them all up.
"""

from __future__ import annotations

import asyncio
import contextlib

from ._readiness import until_readable, until_writable
from ._ssl import ssl
from .errors import TimedOut


async def shake_hands(secured: ssl.SSLSocket, timeout: float | None) -> None:
    """Do the handshake of a socket without blocking, which is blocking on return.

    Raises TimedOut after `timeout` seconds, and what the handshake raises.
    """
    loop = asyncio.get_running_loop()
    secured.setblocking(False)
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            while True:
                try:
                    secured.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await until_readable(loop, secured.fileno())
                except ssl.SSLWantWriteError:
                    await until_writable(loop, secured.fileno())
    except TimeoutError:
        if scope.expired():
            raise TimedOut("handshake_timeout") from None
        raise
    secured.setblocking(True)


def say_end(secured: ssl.SSLSocket) -> None:
    """Tell the client that no more comes (close_notify), without waiting for its own."""
    secured.setblocking(False)
    # ValueError: the handshake was never done. Most often the client's own end has not
    # come, which is no matter.
    with contextlib.suppress(OSError, ValueError):
        secured.unwrap()

"""The TLS handshake of a connection that a legacy handler gets, on the loop.

A thread or a child for each client that opens a connection and says nothing would be
an easy way to use them all up.
"""

from __future__ import annotations

import asyncio

from ..optional_ssl import ssl
from .readiness import until_readable, until_writable
from .time_limits import time_limit


async def shake_hands(secured: ssl.SSLSocket, timeout: float | None) -> None:
    """Do the handshake of a socket without blocking, which is blocking on return.

    Raises TimedOut after `timeout` seconds, and what the handshake raises.
    """
    loop = asyncio.get_running_loop()
    secured.setblocking(False)
    async with time_limit(loop, "handshake_timeout", timeout):
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                await until_readable(loop, secured.fileno())
            except ssl.SSLWantWriteError:
                await until_writable(loop, secured.fileno())
    secured.setblocking(True)

"""Encryption of a connection that is in use: STARTTLS, and the way back.

OpenSSL works in memory (`TLSChannel`): the handshake's bytes are received and sent here as any
others, but for the counters.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import cast

from ..optional_ssl import ssl
from .core import StreamCore
from .time_limits import Deadline
from .tls_channel import TLSChannel
from .traffic import Traffic

# Received at once in a handshake: certificates of a client take a few KiB.
_HANDSHAKE_SIZE = 16 * 1024


async def start_tls(
    sock: StreamCore,
    context: ssl.SSLContext,
    timeout: float | None,
    on_late: Callable[[], object],
) -> None:
    """See `StreamSocket.start_tls`; `on_late` is called after `timeout` seconds."""
    if not isinstance(cast("object", context), ssl.SSLContext):
        raise TypeError(f"start_tls() needs an ssl.SSLContext, not {context!r}")
    if context.protocol == ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            "start_tls() needs a context for a server, as ssl.create_default_context("
            "ssl.Purpose.CLIENT_AUTH) makes it, and got one for a client"
        )
    if sock._tls is not None:
        raise RuntimeError("the connection is encrypted already")
    await sock._flush()
    if sock._unread:
        raise sock._mark(
            ConnectionAbortedError(
                errno.ECONNABORTED,
                f"{len(sock._unread)} bytes came before the TLS handshake, unencrypted",
            )
        )
    if sock._receiving:
        raise sock._in_use("receiving from")
    sock._begin_sending()
    sock._receiving = True
    # The handshake is one message, which a shutdown of the server waits for.
    ends, sock._ends_when_draining = sock._ends_when_draining, False
    deadline = None if timeout is None else Deadline(sock._loop, timeout, on_late)
    try:
        sock._tls = await _shake_hands(sock, context)
        sock._sock = cast(socket.socket, sock._tls)
        sock._input_expected = True
    except ssl.SSLError as error:
        raise sock._mark(error) from None
    finally:
        if deadline is not None:
            deadline.cancel()
        sock._receiving = False
        sock._end_sending()
        sock._ends_when_draining = ends
        sock._opening = sock._received, sock._loop.time()


async def _shake_hands(sock: StreamCore, context: ssl.SSLContext) -> TLSChannel:
    channel = TLSChannel(sock._sock, context, sock._register_writer)
    done = False
    while not done:
        while (received := _try_recv_uncounted(sock)) is None:
            await sock._input()
        # It is not counted, but the client has begun to speak.
        sock._opening = sock._received, sock._loop.time()
        try:
            done, said = channel.shake_hands(received)
        except ssl.SSLError:
            # An alert, which helps the client to find out. It need not arrive.
            with contextlib.suppress(OSError):
                sock._sock.send(channel.alert())
            raise
        while said:
            if (sent := _try_send_uncounted(sock, said)) is None:
                await sock._output(sock._deadline())
            else:
                said = said[sent:]
    return channel


# What TLS needs for itself is not counted. Counters must not fall, so that each is counted
# elsewhere for the moment of the call.


def _try_recv_uncounted(sock: StreamCore) -> bytes | None:
    traffic, sock._traffic = sock._traffic, Traffic()
    before = sock._received
    try:
        return sock._try_recv(_HANDSHAKE_SIZE)
    finally:
        sock._traffic, sock._received = traffic, before


def _try_send_uncounted(sock: StreamCore, data: bytes) -> int | None:
    traffic, before = sock._traffic, sock._sent

    def send(data: bytes) -> int:
        # Now, and not before: what has been written leaves first, and is counted.
        nonlocal before
        before, sock._traffic = sock._sent, Traffic()
        return sock._sock.send(data)

    try:
        return sock._try_send(send, data)
    finally:
        sock._traffic, sock._sent = traffic, before


async def end_tls(sock: StreamCore) -> None:
    """Say the end of TLS, wait for the client's, and go on in the open."""
    await sock._flush()
    sock._begin_sending()
    try:
        tls = sock._tls
        assert tls is not None
        tls.say_end()
        deadline = sock._deadline()
        while not tls.has_ended:
            await sock._output(deadline)
        if await sock._receive(lambda: sock._try_recv(1), 0) or tls.has_more_in_the_open:
            raise sock._mark(
                ssl.SSLError("the client has sent more behind the end of TLS, or before its own")
            )
        sock._tls, sock._sock = None, tls.sock
        sock._peer_closed, sock._input_expected = False, True
    finally:
        sock._end_sending()

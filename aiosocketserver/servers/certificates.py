"""Certificates: where a server's TLS context comes from, and how it is made anew.

A context in use is never changed: `load_cert_chain` with a key that does not fit would
break every handshake from then on. A new one is made, and takes the place of the old
one when nothing was wrong with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import cast

from ..optional_ssl import ssl

logger = logging.getLogger("aiosocketserver")


class CertificateFiles:
    """Makes an `ssl.SSLContext` from files: for a server's `ssl_context`.

    - certfile: the server's certificate and those of the authorities that signed it, PEM
    - keyfile: its key; None when it is in the same file
    - password: of the key
    - client_ca_file: the authorities that a client's certificate has to come from;
      without one, clients need none
    - alpn_protocols: what is offered by ALPN, as ("h2", "http/1.1")

    The rest is as `ssl.create_default_context` has it. Relative names are those of the
    working directory in which this is made, also when the files are loaded anew.
    """

    def __init__(
        self,
        certfile: str | os.PathLike[str],
        keyfile: str | os.PathLike[str] | None = None,
        password: str | None = None,
        *,
        client_ca_file: str | os.PathLike[str] | None = None,
        alpn_protocols: Sequence[str] = (),
    ) -> None:
        self.certfile = _absolute(certfile)
        self.keyfile = None if keyfile is None else _absolute(keyfile)
        self.client_ca_file = None if client_ca_file is None else _absolute(client_ca_file)
        self.alpn_protocols = tuple(alpn_protocols)
        self._password = password

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(os.fspath(f)) for f in self.files)})"

    @property
    def files(self) -> tuple[str | os.PathLike[str], ...]:
        """What the context is made from, for a server that looks whether they change."""
        files = (self.certfile, self.keyfile, self.client_ca_file)
        return tuple(file for file in files if file is not None)

    def __call__(self) -> ssl.SSLContext:
        """A new context.

        Raises OSError, which names the file, for one that cannot be read, and
        ssl.SSLError (an OSError too) for a key that does not fit.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            # Without one OpenSSL would ask at the terminal.
            context.load_cert_chain(self.certfile, self.keyfile, self._password or "")
            if self.client_ca_file is not None:
                context.load_verify_locations(self.client_ca_file)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:
            error.add_note(f"while loading {', '.join(map(str, self.files))}")
            raise
        if self.alpn_protocols:
            context.set_alpn_protocols(list(self.alpn_protocols))
        return context


class ContextSource:
    """The context of one server, and what makes the next one."""

    def __init__(self, given: ssl.SSLContext | Callable[[], ssl.SSLContext]) -> None:
        self._make = None if isinstance(given, ssl.SSLContext) else given
        self._seen = self._look()
        self.context = given if isinstance(given, ssl.SSLContext) else _made(given)
        _check(self.context)

    def reload(self) -> None:
        """Make the context anew. What is wrong with it is raised, and the old one stays."""
        if self._make is None:
            raise RuntimeError(
                "an ssl.SSLContext cannot be made anew: give the server, as ssl_context, a "
                "function that makes it, as aiosocketserver.CertificateFiles(certfile, keyfile)"
            )
        self._seen = self._look()
        context = _made(self._make)
        _check(context)
        self.context = context

    def has_files(self) -> bool:
        """Whether the files are known that it is made from."""
        return getattr(self._make, "files", None) is not None

    def changed(self) -> bool:
        """Whether one of the files is not as it was when they were last loaded."""
        return self._look() != self._seen

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_status(file) for file in getattr(self._make, "files", ())]


class CertificateWatch:
    """Looks from time to time whether the files of a context have changed, and reloads it.

    A failure is logged, and the old context stays; the next look is for another change.
    On the loop's thread.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, source: ContextSource, interval: float
    ) -> None:
        self._loop = loop
        self._source = source
        self._interval = interval
        self._timer = loop.call_later(interval, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._look)
        if not self._source.changed():
            return
        try:
            self._source.reload()
        except Exception as error:
            logger.exception("the certificates have changed and are not used: %s", error)
        else:
            logger.info("the certificates have changed and were loaded")


def _absolute(file: str | os.PathLike[str]) -> str | os.PathLike[str]:
    # Not abspath(): with a link among the folders, ".." is not what the text says.
    return file if os.path.isabs(file) else os.path.join(os.getcwd(), file)


def _status(file: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _made(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = make()
    if not isinstance(cast("object", context), ssl.SSLContext):
        raise TypeError(f"{make!r} must return an ssl.SSLContext, and returned {context!r}")
    return context


def _check(context: ssl.SSLContext) -> None:
    """Raise ValueError for a context with which no handshake can succeed."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server = context.wrap_bio(to_server, to_client, server_side=True)
    except (ssl.SSLError, ValueError) as error:
        # A ValueError from Python 3.14 on.
        raise ValueError(
            f"the ssl_context is not one for a server: {error}; "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) makes one"
        ) from error
    if context.sni_callback is not None:
        # It may bring another context for each name, with certificates of their own.
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    hello = client.wrap_bio(to_client, to_server)
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        pass
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        # It has answered, and waits for the client.
        return
    except ssl.SSLError as error:
        raise ValueError(
            f"no client could connect with the ssl_context; is a certificate loaded? {error}"
        ) from error

"""Certificates made for a test, and clients that speak TLS."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme


@dataclass(frozen=True)
class Certificates:
    """An authority, and files that a server can load."""

    authority: trustme.CA
    certfile: Path
    keyfile: Path
    ca_file: Path

    @classmethod
    def make(cls, folder: Path, *names: str) -> "Certificates":
        authority = trustme.CA()
        made = cls(authority, folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        authority.cert_pem.write_to_path(made.ca_file)
        made.renew(*names)
        return made

    def renew(self, *names: str) -> None:
        """Write another certificate, for these names, into the same files."""
        issued = self.authority.issue_cert("127.0.0.1", *names)
        issued.private_key_pem.write_to_path(self.keyfile)
        self.certfile.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certfile, self.keyfile)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


@contextlib.asynccontextmanager
async def tls_client(
    address: Any, context: ssl.SSLContext, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """asyncio's streams over TLS, to the server at `address`."""
    if isinstance(address, str):
        options.setdefault("server_hostname", "127.0.0.1")
        reader, writer = await asyncio.open_unix_connection(address, ssl=context, **options)
    else:
        reader, writer = await asyncio.open_connection(*address[:2], ssl=context, **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def receive_all(address: Any, context: ssl.SSLContext) -> bytes:
    """All that the server sends, until it says that no more comes.

    In a thread: uvloop's streams lose the end of what they have not read in time.
    """

    def receive() -> bytes:
        received = bytearray()
        with (
            socket.create_connection(address) as sock,
            context.wrap_socket(
                sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            ) as secured,
        ):
            while block := secured.recv(64 * 1024):
                received += block
        return bytes(received)

    return await asyncio.to_thread(receive)

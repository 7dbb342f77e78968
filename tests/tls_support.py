"""Certificates made for a test, and clients that speak TLS."""

import asyncio
import contextlib
import os
import select
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from tests.support import until_later


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
    """All that the server sends, until it says that no more comes."""

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


def finish(sock: socket.socket) -> None:
    """Close a client's socket of which a forked child may have another descriptor."""
    with sock, contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


async def receive_slowly(address: Any, context: ssl.SSLContext) -> bytes:
    """The answer, to a client of asyncio's streams that lets it wait now and then."""
    reader, writer = await asyncio.open_connection(*address, ssl=context)
    plain = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
    writer.write(b"\n")
    received = bytearray()
    while block := await reader.read(32 * 1024):
        received += block
        for _ in range(10):
            await asyncio.sleep(0)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    finish(plain)
    return bytes(received)


class BlockingClient:
    """A client that has asked and not read; `plain` is the socket beneath TLS."""

    def __init__(
        self,
        address: Any,
        context: ssl.SSLContext,
        question: bytes = b"\n",
        *,
        connection: socket.socket | None = None,
    ) -> None:
        self.secured = context.wrap_socket(
            connection or socket.create_connection(address, timeout=20),
            server_hostname="127.0.0.1",
            suppress_ragged_eofs=False,
        )
        self.plain = socket.socket(fileno=os.dup(self.secured.fileno()))
        self.plain.setblocking(True)
        self.secured.sendall(question)

    def receive_all(self) -> bytes:
        """What comes until close_notify. Raises SSLEOFError when it does not come."""
        received = bytearray()
        while block := self.secured.recv(64 * 1024):
            received += block
        return bytes(received)

    def receive_exactly(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size and (block := self.secured.recv(size - len(received))):
            received += block
        return bytes(received)

    def receive_now(self) -> bytes:
        """What has come, which may be words of OpenSSL's only."""
        self.secured.setblocking(False)
        try:
            return self.secured.recv(100)
        except ssl.SSLWantReadError:
            return b""
        finally:
            self.secured.settimeout(20)

    def wait_for_input(self) -> None:
        assert select.select([self.secured], [], [], 20)[0], "nothing has come"

    def has_fin(self) -> bool:
        """Whether the end of the connection has come, which is the next thing that does."""
        try:
            return self.plain.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def wait_for_fin(self) -> bool:
        return self.plain.recv(1) == b""

    def close(self) -> None:
        finish(self.plain)
        self.secured.close()


@contextlib.asynccontextmanager
async def blocking_client(
    server: Any,
    certificates: Certificates,
    question: bytes = b"\n",
    *,
    context: ssl.SSLContext | None = None,
    child_encrypts: bool = False,
) -> AsyncIterator[BlockingClient]:
    """A client that shakes hands in a thread: where a child does so, when that child is there.

    Made while a thread is inside OpenSSL, it could inherit a lock that nobody releases.
    """
    context = context or certificates.client_context()
    address = server.server_address
    connection = None
    if child_encrypts:
        others = set(server.active_children)
        connection = socket.create_connection(address, timeout=20)
        await until_later(lambda: server.active_children - others)
    client = await asyncio.to_thread(
        BlockingClient, address, context, question, connection=connection
    )
    try:
        yield client
    finally:
        client.close()


def is_gone(server: Any) -> bool:
    """Whether nothing is left of any connection."""
    return not (server.requests() or server._closing())

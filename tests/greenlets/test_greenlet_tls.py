"""The socket of a handler in a greenlet under TLS has what an `ssl.SSLSocket` has."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from aiosocketserver import GreenletTCPServer
from tests.greenlet_support import handling
from tests.support import until_later
from tests.tls_support import BlockingClient, Certificates, blocking_client

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


async def serve_one(
    certificates: Certificates,
    handle: Callable[[Any], object],
    talk: Callable[[BlockingClient], object],
) -> None:
    """Have a handler in a greenlet talk with a client, in a thread; neither may fail."""
    context = certificates.server_context()
    server = GreenletTCPServer(
        LOCALHOST, handling(lambda handler: handle(handler.request)), ssl_context=context
    )
    async with server:
        await server.start_serving()
        async with blocking_client(server, certificates, b"") as client:
            await asyncio.to_thread(talk, client)
            await until_later(lambda: not server.requests())
    assert server.statistics.handlers_failed == 0


def names_of_an_ssl_socket(certificates: Certificates) -> set[str]:
    ours, theirs = socket.socketpair()
    with (
        theirs,
        certificates.server_context().wrap_socket(
            ours, server_side=True, do_handshake_on_connect=False
        ) as secured,
    ):
        return {name for name in dir(secured) if not name.startswith("_")}


async def test_every_public_name_of_an_ssl_socket_is_there(certificates: Certificates) -> None:
    names = names_of_an_ssl_socket(certificates)
    assert {"unwrap", "verify_client_post_handshake", "recv", "getpeercert"} < names
    missing: list[str] = []

    def handle(sock: Any) -> None:
        missing.extend(name for name in names if not hasattr(sock, name))
        sock.do_handshake()
        assert sock.server_side
        assert sock.context.__class__ is ssl.SSLContext
        assert sock.pending() == 0
        assert len(sock.get_channel_binding()) > 0
        assert sock.shared_ciphers()

    await serve_one(certificates, handle, BlockingClient.receive_all)
    assert missing == []


async def test_read_and_write(certificates: Certificates) -> None:
    def handle(sock: Any) -> None:
        assert sock.read(3) == b"one"
        buffer = bytearray(100)
        assert sock.read(3, buffer) == 3
        assert buffer[:3] == b"two"
        assert sock.write(b"three") == 5
        assert sock.read() == b""

    def talk(client: BlockingClient) -> None:
        client.secured.sendall(b"onetwo")
        assert client.receive_exactly(5) == b"three"
        client.secured.unwrap()

    await serve_one(certificates, handle, talk)


async def test_unwrap_goes_on_in_the_open(certificates: Certificates) -> None:
    def handle(sock: Any) -> None:
        sock.sendall(b"secret")
        plain = sock.unwrap()
        assert not hasattr(plain, "version")
        plain.sendall(b"in the open")
        assert plain.recv(100) == b"answer"
        assert plain.recv(100) == b""

    def talk(client: BlockingClient) -> None:
        assert client.receive_all() == b"secret"
        client.secured.unwrap()
        assert client.plain.recv(100) == b"in the open"
        client.plain.sendall(b"answer")
        client.plain.shutdown(socket.SHUT_WR)
        assert client.plain.recv(100) == b""

    await serve_one(certificates, handle, talk)


async def test_unwrap_before_the_client_has_ended_is_an_error(certificates: Certificates) -> None:
    def handle(sock: Any) -> None:
        assert sock.recv(3) == b"one"
        with pytest.raises(ssl.SSLError, match="more"):
            sock.unwrap()

    def talk(client: BlockingClient) -> None:
        client.secured.sendall(b"onetwo")
        assert client.receive_all() == b""

    await serve_one(certificates, handle, talk)


async def test_without_tls_there_is_none_of_it(certificates: Certificates) -> None:
    plain = {name for name in dir(socket.socket) if not name.startswith("_")}
    found: list[str] = []

    def handle(sock: Any) -> None:
        names = names_of_an_ssl_socket(certificates) - plain
        found.extend(name for name in names if hasattr(sock, name))

    async with GreenletTCPServer(
        LOCALHOST, handling(lambda handler: handle(handler.request))
    ) as server:
        await server.start_serving()
        reader, writer = await asyncio.open_connection(*server.server_address)
        assert await reader.read() == b""
        writer.close()
    assert found == []
    assert server.statistics.handlers_failed == 0

"""`sock=`: a server on a socket that somebody else has opened."""

import asyncio
import os
import socket
import socketserver
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    StreamRequestHandler,
    TCPServer,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from tests.support import ask
from tests.tls_support import Certificates

LOCALHOST = ("127.0.0.1", 0)


class Upper(BaseRequestHandler):
    """Answers on every kind of socket."""

    async def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            await sock.sendto(data.upper(), self.client_address)
        else:
            await self.request.sendall((await self.request.recv(100)).upper())


class LegacyUpper(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data.upper(), self.client_address)
        else:
            self.request.sendall(self.request.recv(100).upper())


def classes(name: str) -> Iterator[tuple[type[TCPServer | UDPServer], Any]]:
    """The server class of that name and those with mix-ins, each with a handler for it."""
    for mix_in in ("", "Threading", "Forking", "Greenlet"):
        found = getattr(aiosocketserver, f"{mix_in}{name}", None)
        if found is not None:
            yield found, LegacyUpper if mix_in else Upper


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short enough for a Unix socket.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def opened(family: int, kind: int, folder: Path) -> socket.socket:
    """A socket that is bound, and does not listen."""
    sock = socket.socket(family, kind)
    if family == socket.AF_UNIX:
        sock.bind(str(folder / f"s{len(list(folder.iterdir()))}"))
    else:
        sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return sock


async def answer(server: TCPServer | UDPServer, question: bytes, folder: Path) -> bytes:
    """What a client of a server of any kind is told."""
    if server.socket_type == socket.SOCK_STREAM:
        return await ask(server.server_address, question)
    loop = asyncio.get_running_loop()
    with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        if server.address_family == socket.AF_UNIX:
            client.bind(str(folder / "client"))
        client.connect(server.server_address)
        await loop.sock_sendall(client, question)
        return await loop.sock_recv(client, 100)


KINDS = [
    ("TCPServer", socket.AF_INET, socket.SOCK_STREAM),
    ("TCPServer", socket.AF_INET6, socket.SOCK_STREAM),
    ("UnixStreamServer", socket.AF_UNIX, socket.SOCK_STREAM),
    ("UDPServer", socket.AF_INET, socket.SOCK_DGRAM),
    ("UDPServer", socket.AF_INET6, socket.SOCK_DGRAM),
    ("UnixDatagramServer", socket.AF_UNIX, socket.SOCK_DGRAM),
]


@pytest.mark.parametrize(
    ("server_class", "handler", "family", "kind"),
    [(c, h, family, kind) for name, family, kind in KINDS for c, h in classes(name)],
)
async def test_every_server_class_serves_on_a_socket_that_is_bound(
    server_class: type[TCPServer | UDPServer], handler: Any, family: int, kind: int, folder: Path
) -> None:
    sock = opened(family, kind, folder)
    address = sock.getsockname()
    paths = os.listdir(folder)
    async with server_class(None, handler, sock=sock) as server:
        assert server.socket is sock
        assert server.server_address == address
        assert (server.address_family, server.socket_type) == (family, kind)
        await server.start_serving()
        assert await answer(server, b"hello", folder) == b"HELLO"
    assert sock.fileno() == -1
    # Whoever has made the path removes it.
    assert set(paths) <= set(os.listdir(folder))


async def test_one_request_works_too(folder: Path) -> None:
    for server_class, family, kind in (
        (TCPServer, socket.AF_INET, socket.SOCK_STREAM),
        (UDPServer, socket.AF_INET, socket.SOCK_DGRAM),
    ):
        async with server_class(None, Upper, sock=opened(family, kind, folder)) as server:
            one = asyncio.create_task(server.handle_request())
            assert await answer(server, b"hello", folder) == b"HELLO"
            await one


async def test_tls_on_a_given_socket(tmp_path: Path, folder: Path) -> None:
    certificates = Certificates.make(tmp_path)
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    server = TCPServer(None, Upper, sock=sock, ssl_context=certificates.server_context())

    def visit() -> bytes:
        with (
            socket.create_connection(server.server_address) as plain,
            certificates.client_context().wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(b"hello")
            return sock.recv(100)

    async with server:
        await server.start_serving()
        assert await asyncio.to_thread(visit) == b"HELLO"


# --- hooks and attributes ---


class Told(TCPServer):
    def __init__(self, *args: Any, **options: Any) -> None:
        self.hooks: list[str] = []
        super().__init__(*args, **options)

    def server_bind(self) -> None:
        self.hooks.append("bind")
        super().server_bind()

    def server_activate(self) -> None:
        self.hooks.append("activate")
        super().server_activate()

    def server_close(self) -> None:
        self.hooks.append("close")
        super().server_close()


def listens(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) != 0


@pytest.mark.parametrize("listening", [False, True])
def test_it_is_activated_and_not_bound(listening: bool, folder: Path) -> None:
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    if listening:
        sock.listen()
    server = Told(None, Upper, sock=sock)
    assert server.hooks == ["activate"]
    assert listens(sock)
    server.server_close()


async def test_without_bind_and_activate_it_stays_as_it_is(folder: Path) -> None:
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    async with Told(None, Upper, False, sock=sock) as server:
        assert server.hooks == []
        assert not listens(sock)
        with pytest.raises(RuntimeError, match="does not listen"):
            await server.start_serving()
        server.server_activate()
        await server.start_serving()
        assert await ask(server.server_address, b"a") == b"A"


def test_what_the_socket_is_set_to_stays(folder: Path) -> None:
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    sock.settimeout(7)
    sock.set_inheritable(True)
    server = TCPServer(None, Upper, sock=sock, allow_reuse_address=True)
    assert (sock.gettimeout(), sock.get_inheritable()) == (7, True)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
    server.server_close()


async def test_servers_on_duplicates_share_the_clients(folder: Path) -> None:
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    first = TCPServer(None, Upper, sock=sock)
    async with TCPServer(None, Upper, sock=sock.dup()) as second:
        async with first:
            await first.start_serving()
            await second.start_serving()
            assert await ask(second.server_address, b"a") == b"A"
        assert await ask(second.server_address, b"b") == b"B"


@pytest.mark.parametrize("form", ["whole", "host and port"])
def test_the_sockets_own_address_may_be_given_too(form: str, folder: Path) -> None:
    sock = opened(socket.AF_INET6, socket.SOCK_STREAM, folder)
    address = sock.getsockname() if form == "whole" else sock.getsockname()[:2]
    TCPServer(address, Upper, sock=sock).server_close()
    sock = opened(socket.AF_UNIX, socket.SOCK_STREAM, folder)
    path: Any = Path(sock.getsockname())
    UnixStreamServer(
        path if form == "whole" else os.fsencode(path), Upper, sock=sock
    ).server_close()


async def test_a_class_with_its_own_constructor_passes_it_on(folder: Path) -> None:
    class Own(TCPServer):
        def __init__(self, **options: Any) -> None:
            super().__init__(None, Upper, **options)

    async with Own(sock=opened(socket.AF_INET, socket.SOCK_STREAM, folder)) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"a") == b"A"


# --- what cannot be had ---


def closed(folder: Path) -> socket.socket:
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    sock.close()
    return sock


def connected_datagrams(folder: Path) -> socket.socket:
    sock = opened(socket.AF_INET, socket.SOCK_DGRAM, folder)
    sock.connect(sock.getsockname())
    return sock


def secured(folder: Path) -> socket.socket:
    sock = opened(socket.AF_INET, socket.SOCK_STREAM, folder)
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).wrap_socket(sock, server_side=True)


def one_of_a_pair(folder: Path) -> socket.socket:
    del folder
    sock, other = socket.socketpair()
    other.close()
    return sock


WRONG: list[tuple[type[TCPServer | UDPServer], Callable[[Path], Any], type[Exception], str]] = [
    (TCPServer, lambda _: 5, TypeError, "sock must be a socket.socket that is bound, and is 5"),
    (TCPServer, lambda _: LOCALHOST, TypeError, "must be a socket.socket that is bound, and is ("),
    (TCPServer, secured, TypeError, "for an encrypted server give the context as ssl_context"),
    (TCPServer, closed, ValueError, "sock must be open, and is closed: <socket.socket [closed]"),
    (
        TCPServer,
        lambda folder: opened(socket.AF_INET, socket.SOCK_DGRAM, folder),
        ValueError,
        "sock must be of the type SOCK_STREAM for this server, and is <socket.socket",
    ),
    (
        UDPServer,
        lambda folder: opened(socket.AF_INET, socket.SOCK_STREAM, folder),
        ValueError,
        "sock must be of the type SOCK_DGRAM for this server, and is <socket.socket",
    ),
    (
        TCPServer,
        lambda folder: opened(socket.AF_UNIX, socket.SOCK_STREAM, folder),
        ValueError,
        "sock must be of the family AF_INET or AF_INET6 for this server, and is <socket.socket",
    ),
    (
        UnixDatagramServer,
        lambda folder: opened(socket.AF_INET, socket.SOCK_DGRAM, folder),
        ValueError,
        "sock must be of the family AF_UNIX for this server, and is <socket.socket",
    ),
    (TCPServer, lambda _: socket.socket(), ValueError, "must be bound, and has no address yet"),
    (
        UDPServer,
        lambda _: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        ValueError,
        "must be bound, and has no address yet",
    ),
    (
        UnixStreamServer,
        lambda _: socket.socket(socket.AF_UNIX),
        ValueError,
        "must be bound, and has no address yet",
    ),
    (UDPServer, connected_datagrams, ValueError, "and is connected to ('127.0.0.1', "),
    (UnixStreamServer, one_of_a_pair, ValueError, "and is connected to ''"),
]


@pytest.mark.parametrize(("server_class", "make", "error", "message"), WRONG)
def test_a_socket_that_cannot_be_served_on_is_told_and_stays_open(
    server_class: type[TCPServer | UDPServer],
    make: Callable[[Path], Any],
    error: type[Exception],
    message: str,
    folder: Path,
) -> None:
    sock = make(folder)
    was_open = isinstance(sock, socket.socket) and sock.fileno() >= 0
    with pytest.raises(error) as raised:
        server_class(None, Upper, sock=sock)
    assert message in str(raised.value)
    if was_open:
        assert os.fstat(sock.fileno())
        sock.close()


@pytest.mark.parametrize("address", [LOCALHOST, ("localhost", 80), ("127.0.0.1",), "/s", 80])
def test_another_address_beside_it_is_told(address: Any, folder: Path) -> None:
    with opened(socket.AF_INET, socket.SOCK_STREAM, folder) as sock:
        with pytest.raises(ValueError) as raised:
            TCPServer(address, Upper, sock=sock)
        assert f"the address {address!r} was given beside sock, which is" in str(raised.value)
        assert os.fstat(sock.fileno())


@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
def test_without_a_socket_an_address_is_needed(server_class: type[TCPServer | UDPServer]) -> None:
    with pytest.raises(TypeError, match=r"must be a \(host, port\) tuple, and is None"):
        server_class(None, Upper)


def test_a_server_that_cannot_be_made_leaves_the_socket_to_its_caller(folder: Path) -> None:
    class Fails(Told):
        def server_activate(self) -> None:
            raise OSError("not today")

    class NotAHandler:
        pass

    with opened(socket.AF_INET, socket.SOCK_STREAM, folder) as sock:
        with pytest.raises(OSError, match="not today"):
            Fails(None, Upper, sock=sock)
        with pytest.raises(TypeError):
            TCPServer(None, NotAHandler, sock=sock)
        with pytest.raises(ValueError, match="max_connections"):
            TCPServer(None, StreamRequestHandler, sock=sock, max_connections=0)
        sock.listen()
        socket.create_connection(sock.getsockname()).close()


def test_a_hook_at_a_failed_start_is_called_as_without(folder: Path) -> None:
    made: list[Told] = []

    class Fails(Told):
        def server_activate(self) -> None:
            made.append(self)
            raise OSError("not today")

    with opened(socket.AF_INET, socket.SOCK_STREAM, folder) as sock:
        with pytest.raises(OSError, match="not today"):
            Fails(None, Upper, sock=sock)
        assert made[0].hooks == ["close"]
        assert sock.fileno() >= 0

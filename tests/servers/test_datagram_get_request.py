"""An overridden get_request() of a datagram server reads as it likes, and never stops the loop."""

import asyncio
import contextlib
import itertools
import os
import socket
import socketserver
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from tests.datagram_support import receive
from tests.support import Rescuer, until

KINDS = ["udp", "unix", "threading udp", "threading unix", "forking udp", "forking unix"]

CLASSES: dict[str, Any] = {
    "udp": aiosocketserver.UDPServer,
    "unix": aiosocketserver.UnixDatagramServer,
    "threading udp": aiosocketserver.ThreadingUDPServer,
    "threading unix": aiosocketserver.ThreadingUnixDatagramServer,
    "forking udp": aiosocketserver.ForkingUDPServer,
    "forking unix": aiosocketserver.ForkingUnixDatagramServer,
}


class Upper(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        await sock.sendto(data.upper(), self.client_address)


class LegacyUpper(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read().upper())


def rescuer(server: aiosocketserver.UDPServer) -> Rescuer:
    """Sends where a recvfrom() waits."""
    address: Any = server.server_address

    def rescue() -> None:
        sock = socket.socket(server.address_family, socket.SOCK_DGRAM)
        with sock, contextlib.suppress(BlockingIOError):
            sock.sendto(b"rescue", socket.MSG_DONTWAIT, address)

    return Rescuer(rescue)


@contextlib.asynccontextmanager
async def serving(
    kind: str, get_request: Callable[[Any], Any], tmp_path: Path
) -> AsyncIterator[Any]:
    """A server whose get_request() is the given one, started, and never blocked."""
    made = type("Overriding", (CLASSES[kind],), {"get_request": get_request})
    address: Any = str(tmp_path / "server") if "unix" in kind else ("127.0.0.1", 0)
    async with made(address, Upper if " " not in kind else LegacyUpper) as server:
        with rescuer(server):
            await server.start_serving()
            yield server


@pytest.fixture
def client_of(tmp_path: Path) -> Iterator[Callable[[Any], socket.socket]]:
    numbers = itertools.count()
    with contextlib.ExitStack() as stack:

        def make(server: Any) -> socket.socket:
            sock = stack.enter_context(socket.socket(server.address_family, socket.SOCK_DGRAM))
            unix = sock.family == socket.AF_UNIX
            sock.bind(str(tmp_path / f"client{next(numbers)}") if unix else ("127.0.0.1", 0))
            sock.connect(server.server_address)
            sock.setblocking(False)
            return sock

        yield make


Connect = Callable[[Any], socket.socket]


def by_recvfrom(self: Any) -> Any:
    data, address = self.socket.recvfrom(8192)
    return (data, self.socket), address


def by_recvfrom_with_flags(self: Any) -> Any:
    self.socket.recvfrom(1, socket.MSG_PEEK)
    data, address = self.socket.recvfrom(8192, socket.MSG_WAITALL)
    return (data, self.socket), address


def by_recvfrom_into(self: Any) -> Any:
    buffer = bytearray(self.max_packet_size)
    size, address = self.socket.recvfrom_into(buffer)
    return (bytes(buffer[:size]), self.socket), address


def by_recvmsg(self: Any) -> Any:
    data, _, _, address = self.socket.recvmsg(self.max_packet_size, 1024)
    return (data, self.socket), address


def by_recvmsg_into(self: Any) -> Any:
    buffer = bytearray(self.max_packet_size)
    size, _, _, address = self.socket.recvmsg_into([buffer])
    return (bytes(buffer[:size]), self.socket), address


def by_recv_into_after_a_peek(self: Any) -> Any:
    _, address = self.socket.recvfrom(1, socket.MSG_PEEK)
    buffer = bytearray(self.max_packet_size)
    size = self.socket.recv_into(buffer)
    return (bytes(buffer[:size]), self.socket), address


def by_a_duplicate(self: Any) -> Any:
    with self.socket.dup() as duplicate:
        data, address = duplicate.recvfrom(8192)
    return (data, self.socket), address


def by_super(self: Any) -> Any:
    (data, sock), address = super(type(self), self).get_request()
    return (data, sock), address


def by_a_socket_with_a_time_out(self: Any) -> Any:
    self.socket.settimeout(60)
    data, address = self.socket.recvfrom(8192)
    return (data, self.socket), address


def by_trying_until_there_is_one(self: Any) -> Any:
    while True:
        try:
            data, address = self.socket.recvfrom(8192)
            return (data, self.socket), address
        except OSError:
            continue


WAYS = [
    by_recvfrom,
    by_recvfrom_with_flags,
    by_recvfrom_into,
    by_recvmsg,
    by_recvmsg_into,
    by_recv_into_after_a_peek,
    by_a_duplicate,
    by_super,
    by_a_socket_with_a_time_out,
    by_trying_until_there_is_one,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("get_request", WAYS)
async def test_it_reads_as_socketservers_may(
    kind: str, get_request: Callable[[Any], Any], client_of: Connect, tmp_path: Path
) -> None:
    async with serving(kind, get_request, tmp_path) as server:
        clients = [client_of(server) for _ in range(3)]
        for word in (b"one", b"two"):
            for client in clients:
                client.send(word)
            for client in clients:
                assert await receive(client) == word.upper()
    assert server.statistics.datagrams_received == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["super", "recvfrom", "os.read"])
async def test_it_may_ask_for_more_than_there_is(
    kind: str, way: str, client_of: Connect, tmp_path: Path
) -> None:
    """As after a race with another process that shares the socket."""
    stolen: list[bytes] = []

    def get_request(self: Any) -> Any:
        with contextlib.suppress(BlockingIOError):
            stolen.append(self.socket.recvfrom(8192)[0])
        if way == "super":
            return super(type(self), self).get_request()
        if way == "os.read":
            return (os.read(self.fileno(), 8192), self.socket), None
        return by_recvfrom(self)

    async with serving(kind, get_request, tmp_path) as server:
        client = client_of(server)
        client.send(b"taken")
        await until(lambda: bool(stolen))
        # Nobody is there; the loop goes on.
        for _ in range(20):
            await asyncio.sleep(0)
        assert stolen == [b"taken"]
        assert server.statistics.datagrams_received == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_handle_request_goes_on_waiting_when_the_request_was_stolen(
    kind: str, client_of: Connect, tmp_path: Path
) -> None:
    stolen: list[bytes] = []

    def get_request(self: Any) -> Any:
        if not stolen:
            stolen.append(self.socket.recvfrom(8192)[0])
        return by_recvfrom(self)

    made = type("Overriding", (CLASSES[kind],), {"get_request": get_request})
    address: Any = str(tmp_path / "server") if "unix" in kind else ("127.0.0.1", 0)
    async with made(address, Upper if " " not in kind else LegacyUpper) as server:
        with rescuer(server):
            client = client_of(server)
            serving = asyncio.create_task(server.handle_request())
            client.send(b"taken")
            await until(lambda: bool(stolen))
            client.send(b"served")
            await serving
            assert await receive(client) == b"SERVED"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["verify_request", "process_request", "service_actions"])
async def test_no_hook_waits_on_the_servers_socket(
    kind: str, hook: str, client_of: Connect, tmp_path: Path
) -> None:
    raised = []

    def read(self: Any, *args: Any) -> Any:
        try:
            self.socket.recvfrom(8192)
        except BlockingIOError as error:
            raised.append(error)
        return getattr(super(type(self), self), hook)(*args)

    made = type("Overriding", (CLASSES[kind],), {hook: read})
    address: Any = str(tmp_path / "server") if "unix" in kind else ("127.0.0.1", 0)
    async with made(address, Upper if " " not in kind else LegacyUpper) as server:
        with rescuer(server):
            serving = asyncio.create_task(server.serve_forever(poll_interval=0.01))
            client = client_of(server)
            if hook != "service_actions":
                client.send(b"x")
                assert await receive(client) == b"X"
            await until(lambda: bool(raised))
            await server.shutdown()
            await serving


@pytest.mark.parametrize("kind", ["threading unix", "forking unix"])
@pytest.mark.parametrize("one", [False, True], ids=["serve_forever", "handle_request"])
async def test_legacy_handlers_wait_until_their_client_has_room(
    kind: str, one: bool, client_of: Connect, tmp_path: Path
) -> None:
    """Though whoever reads does not wait, on uvloop too, which makes descriptors non-blocking."""
    count = 300

    class Many(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for number in range(count):
                self.request[1].sendto(b"%d" % number, self.client_address)

    async with CLASSES[kind](str(tmp_path / "server"), Many) as server:
        client = client_of(server)
        # Unconnected, so that the client's own queue is the limit.
        path = client.getsockname()
        if one:
            serving = asyncio.create_task(server.handle_request())
            await asyncio.sleep(0)
            client.send(b"x")
            await serving
        else:
            await server.start_serving()
            client.send(b"x")
        assert path
        assert [await receive(client) for _ in range(count)] == [b"%d" % n for n in range(count)]

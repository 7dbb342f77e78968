"""A datagram above max_packet_size is cut: counted, logged once a minute, told to its handler."""

import asyncio
import logging
import queue
import socket
import socketserver
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.logs.limits import LogLimit
from aiosocketserver.sockets import datagram_receiver
from tests.datagram_support import CountingServer, receive
from tests.support import until

KINDS: dict[str, Any] = {
    "udp": aiosocketserver.UDPServer,
    "unix": aiosocketserver.UnixDatagramServer,
    "threading udp": aiosocketserver.ThreadingUDPServer,
    "threading unix": aiosocketserver.ThreadingUnixDatagramServer,
    "forking udp": aiosocketserver.ForkingUDPServer,
    "forking unix": aiosocketserver.ForkingUnixDatagramServer,
}


class Tell(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        answer = f"{len(data)} {sock.truncated_from}".encode()
        await sock.sendto(answer, self.client_address)


class LegacyTell(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(f"{len(data)} {sock.truncated_from}".encode(), self.client_address)


def make(kind: str, tmp_path: Path, *, wildcard: bool = False, **hooks: Any) -> Any:
    made = type("Made", (KINDS[kind],), hooks)
    host = "" if wildcard else "127.0.0.1"
    address: Any = str(tmp_path / "server") if "unix" in kind else (host, 0)
    return made(address, Tell if " " not in kind else LegacyTell, max_packet_size=8192)


def connect(server: Any, tmp_path: Path) -> socket.socket:
    sock = socket.socket(server.address_family, socket.SOCK_DGRAM)
    if sock.family == socket.AF_UNIX:
        sock.bind(str(tmp_path / "client"))
        sock.connect(server.server_address)
    else:
        sock.bind(("127.0.0.1", 0))
        sock.connect(("127.0.0.1", server.server_address[1]))
    sock.setblocking(False)
    return sock


async def answers(server: Any, client: socket.socket) -> list[bytes]:
    told = []
    for size in (0, 8191, 8192, 8193, 9000, 10):
        client.send(bytes(size))
        told.append(await receive(client))
    return told


TOLD = [b"0 None", b"8191 None", b"8192 None", b"8192 8193", b"8192 9000", b"10 None"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wildcard", [False, True], ids=["one address", "wildcard"])
async def test_it_is_told_counted_and_logged_once(
    kind: str, wildcard: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(kind, tmp_path, wildcard=wildcard) as server:
        await server.start_serving()
        with connect(server, tmp_path) as client:
            assert await answers(server, client) == TOLD
            address = client.getsockname()
    assert server.statistics.datagrams_truncated == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.client_address == address  # type: ignore[attr-defined]
    for part in (repr(address), "8193 bytes", "max_packet_size, 8192"):
        assert part in record.getMessage()


async def test_handle_request_tells_too(tmp_path: Path) -> None:
    async with make("udp", tmp_path) as server:
        with connect(server, tmp_path) as client:
            client.send(bytes(10_000))
            await server.handle_request()
            assert await receive(client) == b"8192 10000"
    assert server.statistics.datagrams_truncated == 1


def by_recvfrom(self: Any) -> Any:
    data, address = self.socket.recvfrom(self.max_packet_size)
    return (data, self.socket), address


def by_recvmsg(self: Any) -> Any:
    data, _, _, address = self.socket.recvmsg(self.max_packet_size, 64)
    return (data, self.socket), address


def by_recvfrom_into(self: Any) -> Any:
    buffer = bytearray(self.max_packet_size)
    size, address = self.socket.recvfrom_into(buffer)
    return (memoryview(buffer)[:size], self.socket), address


def by_super(self: Any) -> Any:
    return super(type(self), self).get_request()


def by_super_wrapped_anew(self: Any) -> Any:
    (data, _), address = super(type(self), self).get_request()
    return (bytearray(data), self.socket), address


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "get_request", [by_recvfrom, by_recvmsg, by_recvfrom_into, by_super, by_super_wrapped_anew]
)
async def test_an_overridden_get_request_need_not_look(
    kind: str, get_request: Any, tmp_path: Path
) -> None:
    async with make(kind, tmp_path, get_request=get_request) as server:
        await server.start_serving()
        with connect(server, tmp_path) as client:
            assert await answers(server, client) == TOLD
    assert server.statistics.datagrams_truncated == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_an_overridden_get_request_may_take_less(kind: str, tmp_path: Path) -> None:
    def get_request(self: Any) -> Any:
        data, address = self.socket.recvfrom(1024)
        return (data, self.socket), address

    async with make(kind, tmp_path, get_request=get_request) as server:
        await server.start_serving()
        with connect(server, tmp_path) as client:
            for size, told in ((1024, b"1024 None"), (9000, b"1024 9000")):
                client.send(bytes(size))
                assert await receive(client) == told
    assert server.statistics.datagrams_truncated == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_an_overridden_get_request_that_takes_more_has_the_whole(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def get_request(self: Any) -> Any:
        data, address = self.socket.recvfrom(65536)
        return (data, self.socket), address

    async with make(kind, tmp_path, get_request=get_request) as server:
        await server.start_serving()
        with connect(server, tmp_path) as client:
            client.send(bytes(9000))
            assert await receive(client) == b"9000 None"
    assert server.statistics.datagrams_truncated == 0
    assert not caplog.records


async def test_the_next_minutes_line_tells_how_many_there_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter([1000.0, 1030.0, 1059.9, 1060.1])

    class Limit(LogLimit):
        def __init__(self) -> None:
            super().__init__(clock=times.__next__)

    monkeypatch.setattr(datagram_receiver, "LogLimit", Limit)
    async with make("udp", tmp_path) as server:
        await server.start_serving()
        with connect(server, tmp_path) as client:
            for size in (8500, 8600, 8700, 8800):
                client.send(bytes(size))
                await receive(client)
    first, second = (record.getMessage() for record in caplog.records)
    assert "8500 bytes" in first
    assert "8800 bytes" in second
    assert "2 others" in second
    assert server.statistics.datagrams_truncated == 4


async def test_what_is_dropped_then_is_counted_as_well() -> None:
    """It is counted when it is read, whatever becomes of it."""
    gate = asyncio.Event()

    class Wait(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await gate.wait()

    options: dict[str, Any] = {"max_concurrency": 1, "max_queue": 0, "max_packet_size": 10}
    async with CountingServer(("127.0.0.1", 0), Wait, **options) as server:
        await server.start_serving()
        server.wanted = 3
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(3):
                client.sendto(bytes(20), server.server_address)
            await server.all_read.wait()
        gate.set()
    assert server.statistics.datagrams_truncated == 3


async def test_it_is_counted_whatever_a_hook_makes_of_it(tmp_path: Path) -> None:
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    class Own(aiosocketserver.UDPServer):
        def get_request(self) -> Any:
            (data, _), address = super().get_request()
            return data, address

    class Put(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            requests.put(self.request)

    async with Own(("127.0.0.1", 0), Put) as server:
        await server.start_serving()
        with connect(server, tmp_path) as client:
            client.send(bytes(9000))
            await until(lambda: not requests.empty())
    assert requests.get() == bytes(8192)
    assert server.statistics.datagrams_truncated == 1

"""The bytes that are counted are the handler's: not TLS's own, not a PROXY header, none twice."""

import asyncio
import contextlib
import json
import socket
import socketserver
import ssl
import struct
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    ForkingTCPServer,
    GreenletTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
    ThreadingTCPServer,
)
from aiosocketserver.requests.statistics import RequestEnd
from aiosocketserver.sockets.traffic import Traffic
from tests.deploy.test_deploy_metrics import port_of_metrics
from tests.deploy_support import metrics, serving_application
from tests.support import ask, client_of, until, until_later
from tests.tls_support import BlockingClient, Certificates, blocking_client, tls_client

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


def ends_of(server: Any) -> list[RequestEnd]:
    """What the access log and the metrics are told."""
    ends: list[RequestEnd] = []
    server._requests.observers.append(ends.append)
    return ends


def counted(end: RequestEnd) -> tuple[int | None, int | None]:
    return end.bytes_received, end.bytes_sent


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("make", "handler"), [(TCPServer, Echo), (GreenletTCPServer, LegacyEcho)])
async def test_bytes_under_tls(
    make: Any, handler: Any, version: ssl.TLSVersion, certificates: Certificates
) -> None:
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = version
    async with make(LOCALHOST, handler, ssl_context=certificates.server_context()) as server:
        ends = ends_of(server)
        await server.start_serving()
        statistics = server.statistics
        async with tls_client(server.server_address, context) as (reader, writer):
            await until_later(lambda: statistics.active)
            for n in (1, 2):
                writer.write(b"12345\n")
                assert await reader.readexactly(6) == b"12345\n"
                assert (statistics.bytes_received, statistics.bytes_sent) == (6 * n, 6 * n)
        await until_later(lambda: ends)
        assert counted(ends[0]) == (12, 12)
        assert (statistics.bytes_received, statistics.bytes_sent) == (12, 12)


@pytest.mark.parametrize("make", [ThreadingTCPServer, ForkingTCPServer])
async def test_what_is_a_threads_or_a_childs_is_not_counted(
    make: Any, certificates: Certificates
) -> None:
    async with make(LOCALHOST, LegacyEcho, ssl_context=certificates.server_context()) as server:
        ends = ends_of(server)
        await server.start_serving()
        async with blocking_client(server, certificates, b"12345\n") as client:
            assert await asyncio.to_thread(client.receive_exactly, 6) == b"12345\n"
        await until_later(lambda: ends)
        assert counted(ends[0]) == (None, None)
        assert (server.statistics.bytes_received, server.statistics.bytes_sent) == (0, 0)


async def test_a_handshake_that_fails_counts_nothing(certificates: Certificates) -> None:
    async with TCPServer(LOCALHOST, Echo, ssl_context=certificates.server_context()) as server:
        ends = ends_of(server)
        await server.start_serving()
        await ask(server.server_address, b"GET / HTTP/1.0\r\n\r\n")
        stranger = ssl.create_default_context()
        with pytest.raises(ssl.SSLError):
            await asyncio.to_thread(BlockingClient, server.server_address, stranger)
        await until_later(lambda: len(ends) == 2)
        assert [(end.outcome, *counted(end)) for end in ends] == [("handshake", 0, 0)] * 2


async def test_start_tls_counts_what_is_said_before_and_after(certificates: Certificates) -> None:
    context = certificates.server_context()

    class StartTLS(StreamRequestHandler):
        async def handle(self) -> None:
            assert await self.rfile.readline() == b"STARTTLS\n"
            await self.wfile.write(b"go ahead\n")
            await self.request.start_tls(context)
            async for line in self.rfile:
                await self.wfile.write(line)

    async with TCPServer(LOCALHOST, StartTLS) as server:
        ends = ends_of(server)
        await server.start_serving()
        reader, writer = await asyncio.open_connection(*server.server_address)
        writer.write(b"STARTTLS\n")
        assert await reader.readline() == b"go ahead\n"
        await writer.start_tls(certificates.client_context(), server_hostname="127.0.0.1")
        writer.write(b"12345\n")
        assert await reader.readexactly(6) == b"12345\n"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        await until_later(lambda: ends)
        assert counted(ends[0]) == (15, 15)


async def test_every_way_to_send_under_tls(certificates: Certificates, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100_000))

    class Sends(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            sock = self.request
            await sock.send(b"1")
            await sock.sendall(b"22")
            await sock.sendmsg([b"333", b"4444"])
            with path.open("rb") as file:
                await sock.sendfile(file)
            # What is left to the lingering close counts as well.
            sock._write(bytes(5_000_000))

    async with TCPServer(LOCALHOST, Sends, ssl_context=certificates.server_context()) as server:
        ends = ends_of(server)
        await server.start_serving()
        async with blocking_client(server, certificates, b"") as client:
            received = await asyncio.to_thread(client.receive_all)
        await until_later(lambda: ends)
        assert counted(ends[0]) == (0, len(received)) == (0, 5_100_010)


async def test_a_send_that_is_given_up_counts_what_leaves_of_it(certificates: Certificates) -> None:
    class GivesUp(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            sock = self.request
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(20):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.005):
                        await sock.sendall(bytes(1_000_000))
            self.last = asyncio.create_task(self.send_until_it_is_closed())
            await asyncio.sleep(0)

        async def send_until_it_is_closed(self) -> None:
            with contextlib.suppress(OSError):
                await self.request.sendall(bytes(50_000_000))

    async with TCPServer(LOCALHOST, GivesUp, ssl_context=certificates.server_context()) as server:
        ends = ends_of(server)
        await server.start_serving()
        async with blocking_client(server, certificates, b"") as client:
            received = await asyncio.to_thread(client.receive_all)
        await until_later(lambda: ends)
        assert counted(ends[0]) == (0, len(received))


async def test_what_is_only_looked_at_is_not_counted() -> None:
    class Peeks(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            sock = self.request
            assert await sock.recv(6, socket.MSG_PEEK) == b"12345\n"
            assert await sock.recv_into(bytearray(6), 6, socket.MSG_PEEK) == 6
            assert (await sock.recvmsg(6, 0, socket.MSG_PEEK))[0] == b"12345\n"
            assert await sock.recv(6) == b"12345\n"

    async with TCPServer(LOCALHOST, Peeks) as server:
        ends = ends_of(server)
        await server.start_serving()
        await ask(server.server_address, b"12345\n")
        await until_later(lambda: ends)
        assert counted(ends[0]) == (6, 0)
    assert server.statistics.handlers_failed == 0


async def test_a_proxy_header_is_not_counted(certificates: Certificates) -> None:
    options = {"proxy_protocol": "required", "proxy_trusted": ["127.0.0.1"]}
    async with TCPServer(LOCALHOST, Echo, **options) as server:  # type: ignore[arg-type]
        ends = ends_of(server)
        await server.start_serving()
        header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
        assert await ask(server.server_address, header + b"12345\n") == b"12345\n"
        await until_later(lambda: ends)
        assert counted(ends[0]) == (6, 6)


def test_the_access_log_and_the_metrics_tell_them(
    certificates: Certificates, tmp_path: Path
) -> None:
    files = "--certfile", str(certificates.certfile), "--keyfile", str(certificates.keyfile)
    told = "--access-log", "json", "--metrics", "127.0.0.1:0"
    arguments = ("application:Echo", "--bind", "tls://127.0.0.1:0", *files, *told)
    with serving_application(tmp_path, *arguments) as command:
        client = BlockingClient(
            ("127.0.0.1", command.ports[0]), certificates.client_context(), b"12345\n"
        )
        assert client.receive_exactly(6) == b"12345\n"
        samples = metrics(port_of_metrics(command))
        assert samples["received_bytes_total"] == samples["sent_bytes_total"] == 6
        client.close()
        assert command.end() == 0
        assert command.process.stdout is not None
        (line,) = command.process.stdout.read().splitlines()
    entry = json.loads(line)
    assert (entry["received"], entry["sent"]) == (6, 6)


class Watched(Traffic):
    """Keeps each value that a reader in another thread could see."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {"received": [], "sent": []}
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "seen":
            self.seen[name].append(value)
        super().__setattr__(name, value)


async def test_bytes_never_fall_and_a_handshake_is_none(certificates: Certificates) -> None:
    context = certificates.server_context()
    async with TCPServer(LOCALHOST, Echo, ssl_context=context) as server:
        traffic = server.statistics.traffic = Watched()
        await server.start_serving()
        async with tls_client(server.server_address, certificates.client_context()) as client:
            reader, writer = client
            for _ in range(3):
                writer.write(b"12345\n")
                assert await reader.readexactly(6) == b"12345\n"
    for values in traffic.seen.values():
        assert sorted(values) == values
        assert values[-1] == 18


async def test_what_a_broken_connection_has_not_sent_is_not_counted() -> None:
    class Floods(StreamRequestHandler):
        async def handle(self) -> None:
            await self.rfile.read(1)
            while True:
                await self.wfile.write(bytes(100_000))

    async with TCPServer(LOCALHOST, Floods) as server:
        await server.start_serving()
        with socket.create_connection(server.server_address) as client:
            client.sendall(b"x")
            await until(lambda: server.requests() and server.requests()[0].waits_for == "writing")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: not server.statistics.active)
        # The kernel has taken what it has room for: on both sides a few MiB.
        assert server.statistics.bytes_sent % 100_000
        assert server.statistics.clients_vanished == 1


async def test_what_leaves_before_a_handshake_is_counted(certificates: Certificates) -> None:
    """start_tls() lets what was written leave, also what another task has written meanwhile."""
    context = certificates.server_context()
    # More than the kernel takes while the client does not read.
    block = bytes(20_000_000)

    class Upgrades(StreamRequestHandler):
        async def handle(self) -> None:
            writes = [asyncio.create_task(self.wfile.write(block))]
            await asyncio.sleep(0)
            upgrade = asyncio.create_task(self.request.start_tls(context))
            await asyncio.sleep(0)
            writes.append(asyncio.create_task(self.wfile.write(block)))
            with contextlib.suppress(OSError):
                await upgrade
            await asyncio.gather(*writes, return_exceptions=True)

    async with TCPServer(LOCALHOST, Upgrades) as server:
        ends = ends_of(server)
        await server.start_serving()
        async with client_of(server.server_address) as client:
            received = len(await client.receive(2 * len(block)))
            await client.send(b"this is no TLS")
            client.finish()
            await client.receive_all()
        await until(lambda: ends)
        assert received == 2 * len(block)
        assert (server.statistics.bytes_sent, server.statistics.bytes_received) == (received, 0)
        assert counted(ends[0]) == (0, received)

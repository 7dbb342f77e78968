"""A client that resets its connection, at each stage of a request."""

import asyncio
import socket
import socketserver
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    GreenletTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
)
from tests.support import ask, until
from tests.tls_support import Certificates

LOCALHOST = ("127.0.0.1", 0)


def reset(sock: socket.socket) -> None:
    """Close with a reset and no end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    sock.close()


def has_finished(server: TCPServer, number: int) -> bool:
    return server.statistics.finished == number


class Stages(StreamRequestHandler):
    """Waits for its client where its first line says."""

    async def handle(self) -> None:
        stage = (await self.rfile.readline()).strip()
        match stage:
            case b"recv":
                await self.request.recv(100)
            case b"readline":
                await self.rfile.readline()
            case b"sendall":
                while True:
                    await self.request.sendall(bytes(100_000))
            case b"write":
                while True:
                    await self.wfile.write(bytes(100_000))
            case b"finish":
                await self.wfile.write(b"x" * 1000)
            case b"sendfile":
                with Path("/proc/self/exe").open("rb") as file:
                    while True:
                        await self.request.sendfile(file)
            case _:
                await self.wfile.write(stage)


class LegacyStages(socketserver.StreamRequestHandler):
    """The same as it is written for socketserver."""

    def handle(self) -> None:
        stage = self.rfile.readline().strip()
        match stage:
            case b"recv":
                self.request.recv(100)
            case b"readline":
                self.rfile.readline()
            case b"sendall":
                while True:
                    self.request.sendall(bytes(100_000))
            case b"write":
                while True:
                    self.wfile.write(bytes(100_000))
            case b"sendfile":
                with Path("/proc/self/exe").open("rb") as file:
                    while True:
                        self.request.sendfile(file)
            case _:
                self.wfile.write(stage)


async def serve_and_reset(
    server: TCPServer,
    stage: bytes,
    caplog: pytest.LogCaptureFixture,
    waits: Callable[[], bool],
) -> None:
    async with server:
        await server.start_serving()
        sock = socket.create_connection(server.server_address)
        sock.sendall(stage + b"\n")
        await until(waits)
        reset(sock)
        await until(lambda: server.statistics.finished == 1)
        # The next one is served.
        assert await ask(server.server_address, b"hello\n") == b"hello"
        assert server.statistics.handlers_failed == 0
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


@pytest.mark.parametrize(
    "stage", [b"recv", b"readline", b"sendall", b"write", b"sendfile"], ids=bytes.decode
)
@pytest.mark.parametrize("way", ["task", "greenlet"])
async def test_while_the_handler_waits(
    stage: bytes, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = (
        TCPServer(LOCALHOST, Stages)
        if way == "task"
        else GreenletTCPServer(LOCALHOST, LegacyStages)
    )

    def waits() -> bool:
        for entry in server._requests:
            sock = entry.request
            if isinstance(sock, StreamSocket) and sock._received:
                if stage in (b"recv", b"readline"):
                    return sock._read_waiter.waiting
                return sock._writer_registered
        return False

    await serve_and_reset(server, stage, caplog, waits)
    assert server.statistics.clients_vanished == 1


async def test_before_it_is_accepted(caplog: pytest.LogCaptureFixture) -> None:
    async with TCPServer(LOCALHOST, Stages) as server:
        for _ in range(20):
            reset(socket.create_connection(server.server_address))
        await server.start_serving()
        assert await ask(server.server_address, b"hello\n") == b"hello"
        await until(lambda: not server.requests())
        assert server.statistics.handlers_failed == 0
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


async def test_while_the_answer_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """In finish, or behind it: the handler is through, and nobody's fault."""
    async with TCPServer(LOCALHOST, Stages) as server:
        await server.start_serving()
        for _ in range(20):
            sock = socket.create_connection(server.server_address)
            sock.sendall(b"finish\n")
            reset(sock)
        await until(lambda: server.statistics.finished == 20)
        assert server.statistics.handlers_failed == 0
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


@pytest.mark.parametrize("after", [0, 1, 100], ids=["nothing", "a byte", "half of the hello"])
async def test_in_the_handshake(
    after: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates.make(tmp_path)
    async with TCPServer(LOCALHOST, Stages, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        sock = socket.create_connection(server.server_address)
        # The beginning of a ClientHello.
        sock.sendall((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200))[:after])
        await until(lambda: server.statistics.active)
        await asyncio.sleep(0)
        reset(sock)
        await until(lambda: server.statistics.finished == 1)
        assert server.statistics.handlers_failed == 0
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


async def test_of_a_database_beside_a_clients() -> None:
    """The first is the handler's failure, the second a client that vanished."""
    listener = socket.create_server(("127.0.0.1", 0))

    class AsksDatabase(BaseRequestHandler):
        async def handle(self) -> None:
            data = await self.request.recv(100)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            try:
                if data == b"database":
                    database, _ = listener.accept()
                    reset(database)
                    await reader.read()
                else:
                    await self.request.recv(100)
            finally:
                writer.close()

    with listener:
        async with TCPServer(LOCALHOST, AsksDatabase) as server:
            await server.start_serving()
            counts: list[tuple[int, int]] = []
            for number, question in enumerate((b"database", b"client"), 1):
                sock = socket.create_connection(server.server_address)
                sock.sendall(question)
                if question == b"client":
                    await until(lambda: server.statistics.bytes_received == len(b"databaseclient"))
                    reset(sock)
                await until(partial(has_finished, server, number))
                sock.close()
                counts.append(
                    (server.statistics.handlers_failed, server.statistics.clients_vanished)
                )
    assert counts == [(1, 0), (1, 1)]

"""What floods of clients write into the log: ten lines of a kind, and how many more there were."""

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
    UnixDatagramServer,
)
from tests.deploy_support import Command, serving_application
from tests.support import client_of, until
from tests.threading_support import Echo
from tests.tls_support import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


class Fails(BaseRequestHandler):
    async def handle(self) -> None:
        raise KeyError("x")


def lines(caplog: pytest.LogCaptureFixture, pattern: str) -> int:
    """How many records tell of it, each of one request."""
    return len([m for m in caplog.messages if pattern in m and " more in " not in m])


def more(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many requests there were that have no record."""
    return [int(m.split()[0]) for m in caplog.messages if " more in " in m]


async def visit(server: TCPServer, times: int, message: bytes = b"") -> None:
    for _ in range(times):
        async with client_of(server.server_address) as client:
            if message:
                await client.send(message)
            client.finish()
            await client.receive_all()


async def test_handlers_that_fail_are_told_by_place_and_hooks_see_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = []

    class Server(TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> Any:
            seen.append(client_address)
            return super().handle_error(request, client_address)

    async with Server(("127.0.0.1", 0), Fails) as server:
        await server.start_serving()
        await visit(server, 25)
    assert len(seen) == server.statistics.handlers_failed == 25
    assert lines(caplog, "exception while serving") == 10
    assert more(caplog) == [15]
    assert f"exception while serving {seen[-1]!r}: KeyError" in caplog.messages[-1]


async def test_failures_of_hooks_and_of_handlers_in_threads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Server(ThreadingTCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            raise ValueError("no")

        def handle_error(self, request: Any, client_address: Any) -> None:
            raise RuntimeError("nor this")

    async with Server(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        await visit(server, 25)
    assert lines(caplog, "handle_error() failed") == 10
    assert more(caplog) == [15]


async def test_rubbish_instead_of_tls(
    caplog: pytest.LogCaptureFixture, certificates: Certificates
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    context = certificates.server_context()
    async with TCPServer(("127.0.0.1", 0), Fails, ssl_context=context) as server:
        await server.start_serving()
        await visit(server, 25, b"rubbish\r\n\r\n")
        await until(lambda: server.statistics.handshakes_failed == 25)
    assert lines(caplog, "was lost") == 10
    assert more(caplog) == [15]


async def test_time_outs_broken_headers_and_refusals(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aiosocketserver")

    class Reads(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.recv(1)

    async with TCPServer(("127.0.0.1", 0), Reads, idle_timeout=0.001) as server:
        await server.start_serving()
        for _ in range(12):
            async with client_of(server.server_address) as client:
                await client.receive_all()
    options: dict[str, Any] = {"proxy_protocol": "required", "proxy_trusted": ["127.0.0.0/8"]}
    async with TCPServer(("127.0.0.1", 0), Reads, **options) as server:
        await server.start_serving()
        for _ in range(13):
            async with client_of(server.server_address) as client:
                await client.send(b"rubbish\r\n")
                client.finish()
                await until(lambda: server.statistics.active == 0)
    assert lines(caplog, "idle_timeout has passed") == 10
    assert lines(caplog, "a proxy at") == 10
    assert lines(caplog, "was refused: proxy_protocol") == 10
    assert sorted(more(caplog)) == [2, 3, 3]


async def test_datagrams_that_cannot_be_answered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")

    class Answers(BaseRequestHandler):
        async def handle(self) -> None:
            data, sock = self.request
            await sock.sendto(data, self.client_address)

    async with UnixDatagramServer(str(tmp_path / "s"), Answers) as server:
        await server.start_serving()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            for number in range(25):
                client.sendto(b"x", str(tmp_path / "s"))
                await until(lambda n=number: server.statistics.clients_vanished == n + 1)  # type: ignore[misc]
    assert lines(caplog, "was lost") == 10
    assert more(caplog) == [15]


async def test_get_request_that_fails_for_each_datagram(caplog: pytest.LogCaptureFixture) -> None:
    class Server(UDPServer):
        def get_request(self) -> Any:
            super().get_request()
            raise ValueError("what is this?")

    async with Server(("127.0.0.1", 0), Fails) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(25):
                client.sendto(b"x", server.server_address)
                await asyncio.sleep(0)
        await server.shutdown()
    assert lines(caplog, "get_request() failed") == 10
    assert more(caplog) == [15]


# --- of a service ---


def stderr_after(command: Command, pattern: str) -> list[str]:
    return [line for line in command.lines if pattern in line]


def rubbish(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"rubbish\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass


def test_a_thousand_rubbish_connections_are_not_a_thousand_lines(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls = ("--certfile", str(certificates.certfile), "--keyfile", str(certificates.keyfile))
    arguments = ("application:Echo", "--bind", "tls://127.0.0.1:0", *tls)
    with serving_application(tmp_path, *arguments) as command:
        for _ in range(1000):
            rubbish(command.ports[0])
        assert command.end() == 0
    assert len(stderr_after(command, "was lost")) == 11
    assert stderr_after(command, "990 more in ")

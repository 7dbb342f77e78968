"""Coroutine handlers of compat's datagram servers: what is told of a datagram, and the answer."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, serving


@pytest.fixture(autouse=True, params=LOOP_NAMES)
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", request.param)


class Tell(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        await asyncio.sleep(0)
        told = (len(data), sock.server_address, sock.truncated_from)
        await sock.sendto(repr(told).encode(), self.client_address)


class IPv6Server(compat.UDPServer):
    address_family = socket.AF_INET6


def by_recvfrom(self: Any) -> Any:
    data, address = self.socket.recvfrom(8192)
    return (data, self.socket), address


@pytest.mark.parametrize("get_request", [None, by_recvfrom], ids=["ours", "overridden"])
@pytest.mark.parametrize(
    ("kind", "host", "prefix"),
    [
        (compat.UDPServer, "", ""),
        (compat.ThreadingUDPServer, "0.0.0.0", ""),
        (IPv6Server, "::", "::ffff:"),
    ],
)
def test_the_answer_leaves_from_the_address_that_was_asked(
    kind: type[compat.UDPServer], host: str, prefix: str, get_request: Callable[[Any], Any] | None
) -> None:
    made = type("Made", (kind,), {} if get_request is None else {"get_request": get_request})
    with (
        serving(made((host, 0), Tell)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BOUND)
        client.bind(("127.0.0.3", 0))
        port = server.server_address[1]
        for asked in ("127.0.0.5", "127.0.0.6"):
            client.sendto(b"x", (asked, port))
            answer, source = client.recvfrom(1000)
            assert source == (asked, port)
            assert f"{prefix}{asked}" in answer.decode()


def test_handle_request_answers_likewise() -> None:
    with (
        compat.UDPServer(("", 0), Tell) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BOUND)
        client.sendto(bytes(9000), ("127.0.0.5", server.server_address[1]))
        server.handle_request()
        answer, source = client.recvfrom(1000)
        assert source[0] == "127.0.0.5"
        assert answer == repr((8192, source, 9000)).encode()


def test_what_is_cut_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with (
        serving(compat.UDPServer(("127.0.0.1", 0), Tell)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BOUND)
        for size, told in ((8192, None), (9000, 9000), (10_000, 10_000)):
            client.sendto(bytes(size), server.server_address)
            assert client.recv(1000) == repr((8192, server.server_address, told)).encode()
    (record,) = caplog.records
    assert "9000 bytes" in record.getMessage()

"""Servers behind proxies that send a PROXY header first."""

import asyncio
import socket
import socketserver
import struct
import time
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    ForkingTCPServer,
    ServerOptions,
    ShutdownReport,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
    UnixStreamServer,
)
from tests.support import Peer, ask, client_of, until
from tests.tls_support import Certificates

LOCALHOST = ("127.0.0.1", 0)
REQUIRED: ServerOptions = {"proxy_protocol": "required", "proxy_trusted": ["127.0.0.0/8"]}
OPTIONAL: ServerOptions = {"proxy_protocol": "optional", "proxy_trusted": ["127.0.0.1"]}

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n"
V2 = (
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11"
    + struct.pack("!H", 26)
    + socket.inet_aton("192.0.2.1")
    + socket.inet_aton("198.51.100.7")
    + struct.pack("!HH", 12345, 443)
    + b"\x02\x00\x0bexample.com"
)
LOCAL = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"


def told(client_address: Any) -> bytes:
    header = aiosocketserver.proxy_header()
    name = None if header is None else header.tlv(2)
    return f"{client_address} {name and name.decode()} ".encode()


class Tells(StreamRequestHandler):
    """Tells whose connection it is, and what came after the header."""

    async def handle(self) -> None:
        await self.wfile.write(told(self.client_address) + await self.rfile.readline())


class LegacyTells(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(told(self.client_address) + self.rfile.readline())


class TellsFirst(StreamRequestHandler):
    """Speaks before its client does."""

    async def handle(self) -> None:
        await self.wfile.write(told(self.client_address))


SERVERS = [(TCPServer, Tells), (ThreadingTCPServer, LegacyTells), (ForkingTCPServer, LegacyTells)]


@pytest.mark.parametrize(("header", "name"), [(V1, "None"), (V2, "example.com")], ids=["v1", "v2"])
@pytest.mark.parametrize("options", [REQUIRED, OPTIONAL], ids=["required", "optional"])
@pytest.mark.parametrize(("server_class", "handler"), SERVERS)
async def test_the_client_is_the_real_one(
    server_class: type[TCPServer], handler: Any, options: ServerOptions, header: bytes, name: str
) -> None:
    async with server_class(LOCALHOST, handler, **options) as server:
        await server.start_serving()
        answer = await ask(server.server_address, header + b"hello\n")
        assert answer == f"('192.0.2.1', 12345) {name} hello\n".encode()


@pytest.mark.parametrize("header", [V1, V2, LOCAL], ids=["v1", "v2", "local"])
@pytest.mark.parametrize("options", [REQUIRED, OPTIONAL], ids=["required", "optional"])
async def test_a_header_may_come_in_any_pieces(options: ServerOptions, header: bytes) -> None:
    message = header + b"hello\n"
    async with TCPServer(LOCALHOST, Tells, **options) as server:
        await server.start_serving()
        for size in (1, 3, 11, len(header) - 1, len(header) + 1):
            async with client_of(server.server_address) as client:
                client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for start in range(0, len(message), size):
                    await client.send(message[start : start + size])
                    for _ in range(3):
                        await asyncio.sleep(0)
                answer = await client.receive_all()
                assert answer.endswith(b" hello\n")
                assert (b"192.0.2.1" in answer) is (header is not LOCAL)


async def test_tls_may_follow(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    for server_class, handler in SERVERS:
        options = REQUIRED | ServerOptions(ssl_context=certificates.server_context())
        server = server_class(LOCALHOST, handler, **options)

        def visit(address: Any) -> bytes:
            with socket.create_connection(address) as sock:
                sock.sendall(V2)
                context = certificates.client_context()
                with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                    secured.sendall(b"hello\n")
                    answer = b""
                    while not answer.endswith(b"\n"):
                        answer += secured.recv(100)
                    return answer

        async with server:
            await server.start_serving()
            answer = await asyncio.to_thread(visit, server.server_address)
            assert answer == b"('192.0.2.1', 12345) example.com hello\n"


async def test_hooks_and_log_records_have_the_real_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    verified: list[Any] = []

    class Server(TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            del request
            verified.append(client_address)
            return True

    class Fails(BaseRequestHandler):
        async def handle(self) -> None:
            raise ValueError

    async with Server(LOCALHOST, Fails, **REQUIRED) as server:
        await server.start_serving()
        assert await ask(server.server_address, V1) == b""
        await until(lambda: not server.requests())
    assert verified == [("192.0.2.1", 12345)]
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert getattr(record, "client_address", None) == ("192.0.2.1", 12345)


async def test_a_proxys_own_connection_is_under_its_own_address() -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED) as server:
        await server.start_serving()
        for header in (LOCAL, b"PROXY UNKNOWN\r\n"):
            answer = await ask(server.server_address, header + b"hello\n")
            assert answer.startswith(b"('127.0.0.1', ")
            assert answer.endswith(b" hello\n")


async def test_one_request_works_too() -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED) as server:
        one = asyncio.create_task(server.handle_request())
        assert b"192.0.2.1" in await ask(server.server_address, V1 + b"x\n")
        await one


async def test_whoever_can_reach_a_unix_socket_is_trusted(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with UnixStreamServer(path, Tells, proxy_protocol="required") as server:
        await server.start_serving()
        assert b"('192.0.2.1', 12345)" in await ask(path, V1 + b"x\n")


# --- who is not let in ---


class Refusing(TCPServer):
    refusals: list[tuple[str, str]]

    def handle_refusal(self, request: Any, client_address: Any, reason: str) -> None:
        assert request.fileno() >= 0
        self.refusals.append((client_address[0], reason))


async def answer_or_end(address: Any, message: bytes) -> bytes:
    try:
        return await ask(address, message)
    except OSError:
        return b""


@pytest.mark.parametrize(
    "message",
    [
        b"hello\n",
        b"",
        V1[:20],
        V2[:-1],
        V1.replace(b"443", b"65536"),
        V2.replace(b"\x21\x11", b"\x31\x11"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_without_a_proper_header_it_is_refused(
    message: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = Refusing(LOCALHOST, Tells, **REQUIRED)
    server.refusals = []
    async with server:
        await server.start_serving()
        assert await answer_or_end(server.server_address, message) == b""
        await until(lambda: not server.requests())
    assert server.refusals == [("127.0.0.1", "proxy_protocol")]
    assert server.statistics.refused == {"proxy_protocol": 1}
    assert server.statistics.handlers_failed == 0
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


async def test_where_it_is_optional_a_broken_header_is_refused_too() -> None:
    async with TCPServer(LOCALHOST, Tells, **OPTIONAL) as server:
        await server.start_serving()
        assert await answer_or_end(server.server_address, b"PROXY TCP4 nonsense\r\n") == b""
        assert server.statistics.refused == {"proxy_protocol": 1}


async def test_a_stranger_is_not_served_where_a_header_is_required() -> None:
    server = Refusing(LOCALHOST, Tells, proxy_protocol="required", proxy_trusted=["192.0.2.0/24"])
    server.refusals = []
    async with server:
        await server.start_serving()
        assert await answer_or_end(server.server_address, V1 + b"x\n") == b""
    assert server.refusals == [("127.0.0.1", "proxy_trusted")]


async def test_a_stranger_is_not_believed_where_it_is_optional() -> None:
    options: ServerOptions = {"proxy_protocol": "optional", "proxy_trusted": ["192.0.2.0/24"]}
    async with TCPServer(LOCALHOST, Tells, **options) as server:
        await server.start_serving()
        answer = await ask(server.server_address, V1 + b"x\n")
        assert answer.startswith(b"('127.0.0.1', ")
        assert answer.endswith(b" None " + V1)


@pytest.mark.parametrize(
    "message", [b"hello\n", b"PROXZ\n", b"P", b"PRI * HTTP/2.0\n", b"\r\n\r\n\n", b"\n"]
)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_without_a_header_where_it_is_optional_nothing_is_lost(
    message: bytes, in_pieces: bool
) -> None:
    async with TCPServer(LOCALHOST, Tells, **OPTIONAL) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            if in_pieces:
                await client.send(message[:1])
                await until(lambda: server.statistics.active)
                await client.send(message[1:])
            else:
                await client.send(message)
            client.finish()
            answer = await client.receive_all()
        assert answer.startswith(b"('127.0.0.1', ")
        first_line = message[: message.find(b"\n") + 1] or message
        assert answer.endswith(b" None " + first_line)


# --- time ---


async def test_a_header_has_its_own_time() -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED | ServerOptions(proxy_timeout=0.1)) as server:
        await server.start_serving()
        for beginning in (b"", V1[:10], V2[:14]):
            async with client_of(server.server_address) as client:
                await client.send(beginning)
                assert await client.receive_all() == b""
        assert server.statistics.timed_out == {"proxy_timeout": 3}
        assert server.statistics.clients_vanished == 0


async def test_the_time_that_a_blocked_loop_takes_does_not_count() -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED | ServerOptions(proxy_timeout=0.5)) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.statistics.active)
            time.sleep(1.0)
            for _ in range(3):
                await asyncio.sleep(0)
            await client.send(V1 + b"x\n")
            assert b"192.0.2.1" in await client.receive_all()


async def test_who_waits_for_the_server_is_served_after_it_where_it_is_optional() -> None:
    async with TCPServer(
        LOCALHOST, TellsFirst, **OPTIONAL | ServerOptions(proxy_timeout=0.1)
    ) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert (await client.receive_all()).startswith(b"('127.0.0.1', ")
        assert not server.statistics.timed_out


async def test_others_are_served_meanwhile() -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED) as server:
        await server.start_serving()
        async with client_of(server.server_address), client_of(server.server_address) as half:
            await half.send(V1[:10])
            assert b"192.0.2.1" in await ask(server.server_address, V1 + b"x\n")


async def test_a_reset_before_the_end_of_the_header_is_the_clients(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED) as server:
        await server.start_serving()
        sock = socket.create_connection(server.server_address)
        sock.sendall(V1[:10])
        await until(lambda: server.statistics.active)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        sock.close()
        await until(lambda: server.statistics.finished)
        assert server.statistics.clients_vanished == 1
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR") or r.exc_info]


async def test_a_shutdown_cuts_who_sends_no_header() -> None:
    async with TCPServer(LOCALHOST, Tells, **REQUIRED) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.statistics.active)
            assert await server.shutdown(0) == ShutdownReport(finished=0, cut=1, abandoned=0)
            assert await answer_of(client) == b""


async def answer_of(client: Peer) -> bytes:
    try:
        return await client.receive_all()
    except ConnectionResetError:
        return b""


# --- limits ---


async def test_the_real_clients_are_counted() -> None:
    class Waits(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"here\n")
            await self.rfile.readline()

    def header(host: str) -> bytes:
        return f"PROXY TCP4 {host} 127.0.0.1 1 1\r\n".encode()

    server = Refusing(LOCALHOST, Waits, **REQUIRED | ServerOptions(max_connections_per_host=1))
    server.refusals = []
    async with server:
        await server.start_serving()
        async with (
            client_of(server.server_address) as one,
            client_of(server.server_address) as other,
        ):
            await one.send(header("192.0.2.1"))
            await other.send(header("192.0.2.2"))
            assert await one.receive(5) == await other.receive(5) == b"here\n"
            assert await answer_or_end(server.server_address, header("192.0.2.1")) == b""
            assert server.refusals == [("192.0.2.1", "max_connections_per_host")]
            one.finish()
            assert await one.receive_all() == b""
            await until(lambda: server.statistics.active == 1)
            assert await ask(server.server_address, header("192.0.2.1")) == b"here\n"
            hosts = server._requests.hosts
            assert hosts is not None
        await until(lambda: not server.requests())
        assert not hosts._counts


# --- options ---


def test_who_is_trusted_has_to_be_said() -> None:
    with pytest.raises(ValueError, match=r"TCPServer\.proxy_protocol needs proxy_trusted, the ne"):
        TCPServer(LOCALHOST, Tells, proxy_protocol="required")


@pytest.mark.parametrize("trusted", ["10.0.0.0/8", ["10.0.0.1/8"], ["proxy"], 5, [5.0]])
def test_networks_that_make_no_sense_are_refused(trusted: Any) -> None:
    with pytest.raises(ValueError, match="proxy_trusted must be a list of networks, as"):
        TCPServer(LOCALHOST, Tells, proxy_trusted=trusted)


def test_other_values_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match='must be "off", "optional" or "required", and is True'):
        TCPServer(LOCALHOST, Tells, proxy_protocol=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="proxy_timeout must be a number of seconds above 0, or"):
        TCPServer(LOCALHOST, Tells, proxy_timeout=0)
    with pytest.raises(TypeError, match="UDPServer has no option 'proxy_protocol'"):
        UDPServer(LOCALHOST, BaseRequestHandler, proxy_protocol="required")


async def test_a_socket_that_is_no_plain_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Wraps(socket.socket):
        def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
            return super().recv(bufsize, flags)

    class Server(ThreadingTCPServer):
        def get_request(self) -> tuple[Any, Any]:
            sock, address = super().get_request()
            return Wraps(fileno=sock.detach()), address

    async with Server(LOCALHOST, LegacyTells, **REQUIRED) as server:
        await server.start_serving()
        assert await answer_or_end(server.server_address, V1) == b""
        await until(lambda: not server.requests())
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.exc_text is not None
    assert "proxy_protocol needs plain sockets, and get_request() returned" in record.exc_text

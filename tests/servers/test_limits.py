"""How many connections there may be: at once, and of each host."""

import asyncio
import socket
import socketserver
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosocketserver import (
    ForkingTCPServer,
    ServerOptions,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UDPServer,
    UnixStreamServer,
)
from aiosocketserver.requests.hosts import HostCounts, host_of
from aiosocketserver.servers.stream import share_max_connections
from tests.support import Peer, ask, client_of, until, until_queued

LOCALHOST = ("127.0.0.1", 0)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


@asynccontextmanager
async def client_from(host: str, address: Any) -> AsyncIterator[Peer]:
    with socket.socket() as sock:
        sock.bind((host, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        yield Peer(sock)


async def echoes(client: Peer) -> None:
    await client.send(b"x\n")
    assert await client.receive(2) == b"x\n"


# --- max_connections ---


async def test_at_max_connections_the_backlog_holds_the_rest() -> None:
    async with TCPServer(LOCALHOST, Echo, max_connections=2) as server:
        await server.start_serving()
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(client_of(server.server_address)) for _ in range(4)
            ]
            await echoes(clients[0])
            await echoes(clients[1])
            for client in clients[2:]:
                await client.send(b"x\n")
            # Accepting is off, so the loop has nothing to do for those who wait: it would pause
            # again at each turn.
            assert server.statistics.accept_pauses == 1
            assert len(server.requests()) == 2
            for ended, next_one in ((0, 2), (1, 3)):
                clients[ended].finish()
                assert await clients[ended].receive_all() == b""
                clients[ended].sock.close()
                assert await clients[next_one].receive(2) == b"x\n"


async def test_a_connection_that_is_closing_counts() -> None:
    class Answer(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"bye\n")

    async with TCPServer(LOCALHOST, Answer, max_connections=1, linger_timeout=60) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            assert await first.receive_all() == b"bye\n"
            async with client_of(server.server_address) as second:
                await until(lambda: not len(server.requests()))
                assert server._connections.lingering is not None
                assert len(server._connections.lingering) == 1
                first.sock.close()
                assert await second.receive_all() == b"bye\n"


async def test_threads_count_too() -> None:
    async with ThreadingTCPServer(LOCALHOST, LegacyEcho, max_connections=1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await echoes(first)
            async with client_of(server.server_address) as second:
                await second.send(b"x\n")
                first.finish()
                assert await first.receive_all() == b""
                first.sock.close()
                assert await second.receive(2) == b"x\n"


# --- max_connections_per_host ---


class Refusing(TCPServer):
    refusals: list[tuple[Any, str]]

    def handle_refusal(self, request: Any, client_address: Any, reason: str) -> None:
        assert request.fileno() >= 0
        self.refusals.append((client_address, reason))


async def test_the_excess_of_one_host_is_closed_at_once() -> None:
    async with Refusing(LOCALHOST, Echo, max_connections_per_host=2) as server:
        server.refusals = []
        await server.start_serving()
        address = server.server_address
        async with (
            client_of(address) as first,
            client_of(address) as second,
            client_of(address) as third,
            client_from("127.0.0.2", address) as stranger,
        ):
            await echoes(first)
            await echoes(second)
            assert await third.receive_all() == b""
            await echoes(stranger)
            assert server.refusals == [(third.sock.getsockname(), "max_connections_per_host")]
            assert server.statistics.refused == {"max_connections_per_host": 1}
            first.finish()
            assert await first.receive_all() == b""
            async with client_of(address) as fourth:
                await echoes(fourth)
        await until(lambda: not server.requests())
        assert server._requests.hosts is not None
        assert server._requests.hosts._counts == {}


async def test_connections_that_were_there_before_the_limit_count() -> None:
    async with TCPServer(LOCALHOST, Echo) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await echoes(first)
            server.max_connections_per_host = 1
            assert await ask(server.server_address) == b""
            await echoes(first)


async def test_a_refusal_hook_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(TCPServer):
        def handle_refusal(self, request: Any, client_address: Any, reason: str) -> None:
            raise ValueError("oh no")

    async with Failing(LOCALHOST, Echo, max_connections_per_host=1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await echoes(first)
            assert await ask(server.server_address) == b""
            await echoes(first)
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert record.message == "handle_refusal() failed"
    caplog.clear()


async def test_exit_in_the_refusal_hook_ends_the_server() -> None:
    class Exiting(TCPServer):
        def handle_refusal(self, request: Any, client_address: Any, reason: str) -> None:
            raise SystemExit("enough")

    async with Exiting(LOCALHOST, Echo, max_connections_per_host=1, shutdown_timeout=0) as server:

        async def exceed() -> None:
            async with client_of(server.server_address) as first:
                await echoes(first)
                assert await ask(server.server_address) == b""

        clients = asyncio.create_task(exceed())
        with pytest.raises(SystemExit, match="enough"):
            await server.serve_forever()
        await clients


@pytest.mark.parametrize("server_class", [ThreadingTCPServer, ForkingTCPServer])
async def test_threads_and_children_are_counted_for_their_host(server_class: Any) -> None:
    class Server(server_class):  # type: ignore[misc]
        max_connections_per_host = 1

    async with Server(LOCALHOST, LegacyEcho) as server:
        await server.start_serving()
        for _ in range(2):
            async with client_of(server.server_address) as first:
                await echoes(first)
                assert await ask(server.server_address) == b""
                first.finish()
                assert await first.receive_all() == b""
            await until(lambda: not server.requests())
        assert server.statistics.refused.total() == 2


async def test_handle_request_refuses_too() -> None:
    async with TCPServer(LOCALHOST, Echo, max_connections_per_host=1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await echoes(first)
            async with client_of(server.server_address) as second:
                assert await second.receive_all() == b""
        assert server.statistics.refused.total() == 1


async def test_clients_of_a_unix_socket_have_no_host(tmp_path: Any) -> None:
    path = str(tmp_path / "s")
    async with UnixStreamServer(path, Echo, max_connections_per_host=1) as server:
        await server.start_serving()
        async with client_of(path) as first, client_of(path) as second:
            await echoes(first)
            await echoes(second)


@pytest.mark.parametrize("name", ["max_connections", "max_connections_per_host"])
def test_datagram_servers_have_no_connections(name: str) -> None:
    with pytest.raises(TypeError, match=f"UDPServer has no option '{name}'"):
        UDPServer(LOCALHOST, Echo, True, **cast("ServerOptions", {name: 1}))


# --- what a host is ---


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_hosts(one: str, other: str, same: bool) -> None:
    assert (host_of((one, 1), 64) == host_of((other, 2, 0, 0), 64)) == same


@pytest.mark.parametrize("address", ["", b"\0name", "/path", None, ("name",)])
def test_an_address_that_is_not_ip_has_no_host(address: object) -> None:
    assert host_of(address, 64) is None
    counts = HostCounts(64)
    counts.add(address)
    assert counts.of(address) == 0
    counts.remove(address)


def test_the_prefix_length_is_the_callers() -> None:
    assert host_of(("2001:db8::1", 1), 128) != host_of(("2001:db8::2", 1), 128)
    assert host_of(("2001:db8::1", 1), 32) == host_of(("2001:db8:ffff::2", 1), 32)


@given(st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"])))
def test_counts_are_those_of_the_connections(hosts: list[str]) -> None:
    counts = HostCounts(64)
    for host in hosts:
        counts.add((host, 1))
    networks = ["10.0.0.1", "10.0.0.2", "2001:db8::9"]
    expected = [hosts.count(host) for host in networks[:2]]
    expected.append(sum(host.startswith("2001") for host in hosts))
    assert [counts.of((host, 7)) for host in networks] == expected
    for host in hosts:
        counts.remove((host, 1))
    assert counts._counts == {}


# --- one limit for several servers ---


async def test_servers_can_have_one_limit_together() -> None:
    first = TCPServer(LOCALHOST, Echo, max_connections=2)
    second = TCPServer(LOCALHOST, Echo, max_connections=2)
    share_max_connections([first, second])
    async with first, second, AsyncExitStack() as stack:
        await first.start_serving()
        await second.start_serving()
        clients = [await stack.enter_async_context(client_of(first.server_address)) for _ in "ab"]
        for client in clients:
            await echoes(client)
        async with client_of(second.server_address) as waiting:
            await waiting.send(b"x\n")
            # There is room nowhere until one of the first server's has ended.
            await until_queued(second, 1)
            await echoes(clients[1])
            assert not second.requests()
            clients[0].finish()
            assert await clients[0].receive_all() == b""
            clients[0].sock.close()
            assert await waiting.receive(2) == b"x\n"
            assert len(first.requests()) == len(second.requests()) == 1

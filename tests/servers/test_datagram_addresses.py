"""An answer leaves from the address that was asked, where a server is bound to all addresses."""

import asyncio
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import aiosocketserver
from tests.support import until

KINDS: dict[str, Any] = {
    "tasks": aiosocketserver.UDPServer,
    "threads": aiosocketserver.ThreadingUDPServer,
    "children": aiosocketserver.ForkingUDPServer,
}


class Tell(aiosocketserver.DatagramRequestHandler):
    async def handle(self) -> None:
        self.wfile.write(repr(self.socket.server_address).encode())


def address_of(sock: Any) -> Any:
    return sock.server_address


class LegacyTell(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        sock: Any = self.socket
        assert isinstance(sock, socket.socket)
        self.wfile.write(repr(address_of(sock)).encode())


def make(kind: str, host: str = "0.0.0.0", **hooks: Any) -> Any:
    made = type("Made", (KINDS[kind],), hooks)
    return made((host, 0), Tell if kind == "tasks" else LegacyTell)


@pytest.fixture
def client() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("127.0.0.3", 0))
        sock.setblocking(False)
        yield sock


async def receive(sock: socket.socket) -> tuple[str, str]:
    """What comes, and from which host."""
    # uvloop has no sock_recvfrom().
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
    data, address = sock.recvfrom(65536)
    return data.decode(), address[0]


async def ask(sock: socket.socket, server: Any, host: str) -> tuple[str, str]:
    """What a server tells that was asked at `host`, and from which host."""
    sock.sendto(b"?", (host, server.server_address[1]))
    return await receive(sock)


# --- which address ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["", "0.0.0.0", "0"])
async def test_it_is_the_one_that_was_asked(kind: str, host: str, client: socket.socket) -> None:
    async with make(kind, host) as server:
        await server.start_serving()
        port = server.server_address[1]
        for asked in ("127.0.0.5", "127.0.0.1", "127.0.0.5", "127.9.8.7"):
            assert await ask(client, server, asked) == (repr((asked, port)), asked)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["::", "0:0::0", "::0"])
async def test_a_socket_for_both_families_answers_both(
    kind: str, host: str, client: socket.socket
) -> None:
    async with make(kind, host) as server:
        await server.start_serving()
        port = server.server_address[1]
        for asked in ("127.0.0.5", "127.0.0.6"):
            told, source = await ask(client, server, asked)
            assert told == repr((f"::ffff:{asked}", port, 0, 0))
            assert source == asked
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ipv6:
            ipv6.setblocking(False)
            assert await ask(ipv6, server, "::1") == (repr(("::1", port, 0, 0)), "::1")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_socket_for_ipv6_alone_does_as_well(kind: str) -> None:
    def server_bind(self: Any) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super(type(self), self).server_bind()

    async with make(kind, "::", server_bind=server_bind) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ipv6:
            ipv6.setblocking(False)
            assert (await ask(ipv6, server, "::1"))[1] == "::1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("waits", [False, True], ids=["serving", "before it serves"])
async def test_a_broadcast_is_answered_from_an_address_that_may_send(
    kind: str, host: str, waits: bool, client: socket.socket
) -> None:
    async with make(kind, host) as server:
        if not waits:
            await server.start_serving()
        client.sendto(b"?", ("127.255.255.255", server.server_address[1]))
        await server.start_serving()
        told, source = await receive(client)
        assert "127.255.255.255" in told
        assert source == "127.0.0.1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("waits", [False, True], ids=["serving", "before it serves"])
async def test_a_multicast_is_answered_from_an_address_that_may_send(
    kind: str, host: str, waits: bool, client: socket.socket
) -> None:
    on_lo = socket.inet_aton("127.0.0.1")
    client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, on_lo)
    async with make(kind, host) as server:
        member = socket.inet_aton("239.7.7.7") + on_lo
        server.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        if not waits:
            await server.start_serving()
        client.sendto(b"?", ("239.7.7.7", server.server_address[1]))
        await server.start_serving()
        told, source = await receive(client)
        assert "239.7.7.7" in told
        assert source == "127.0.0.1"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_what_came_before_the_server_serves_is_answered_likewise(
    kind: str, host: str, client: socket.socket
) -> None:
    """As the datagram for which systemd has started the service."""
    async with make(kind, host) as server:
        client.sendto(b"?", ("127.0.0.5", server.server_address[1]))
        await server.start_serving()
        assert (await receive(client))[1] == "127.0.0.5"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_socket_that_was_opened_elsewhere_does_as_well(
    kind: str, client: socket.socket
) -> None:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("0.0.0.0", 0))
    async with make(kind, "127.0.0.1") as server:
        server.socket.close()
        server.socket = opened
        server.server_address = opened.getsockname()
        client.sendto(b"?", ("127.0.0.5", server.server_address[1]))
        await server.handle_request()
        assert (await receive(client))[1] == "127.0.0.5"
        await server.start_serving()
        assert (await ask(client, server, "127.0.0.6"))[1] == "127.0.0.6"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_with_one_address_asks_the_kernel_for_nothing(
    kind: str, client: socket.socket
) -> None:
    async with make(kind, "127.0.0.5") as server:
        await server.start_serving()
        assert await ask(client, server, "127.0.0.5") == (
            repr(server.server_address),
            "127.0.0.5",
        )
        received = server.socket.getsockopt(socket.IPPROTO_IP, 8)
        assert received == 0


# --- which calls ---


def by_recvfrom(self: Any) -> Any:
    data, address = self.socket.recvfrom(8192)
    return (data, self.socket), address


def by_recvmsg(self: Any) -> Any:
    data, _, _, address = self.socket.recvmsg(8192)
    return (data, self.socket), address


def by_super(self: Any) -> Any:
    (data, _), address = super(type(self), self).get_request()
    return (data, self.socket), address


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("get_request", [by_recvfrom, by_recvmsg, by_super])
async def test_an_overridden_get_request_need_not_look(
    kind: str, host: str, get_request: Callable[[Any], Any], client: socket.socket
) -> None:
    async with make(kind, host, get_request=get_request) as server:
        await server.start_serving()
        assert (await ask(client, server, "127.0.0.5"))[1] == "127.0.0.5"
        assert (await ask(client, server, "127.0.0.6"))[1] == "127.0.0.6"


async def test_many_handlers_at_once_each_know_their_own(client: socket.socket) -> None:
    begun = 0
    all_begun = asyncio.Event()

    class Together(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            nonlocal begun
            begun += 1
            if begun == 9:
                all_begun.set()
            await all_begun.wait()
            await self.request[1].sendto(self.request[0], self.client_address)

    async with aiosocketserver.UDPServer(("", 0), Together) as server:
        await server.start_serving()
        asked = {f"127.0.0.{number}" for number in range(1, 10)}
        for host in asked:
            client.sendto(host.encode(), (host, server.server_address[1]))
        answers = {await receive(client) for _ in asked}
    assert answers == {(host, host) for host in asked}


async def test_the_socket_may_be_used_when_the_handler_has_ended(client: socket.socket) -> None:
    kept: list[Any] = []

    class Keep(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            kept.append((self.request[1], self.client_address))

    async with aiosocketserver.UDPServer(("", 0), Keep) as server:
        await server.start_serving()
        for host in ("127.0.0.5", "127.0.0.6"):
            client.sendto(b"x", (host, server.server_address[1]))
        await until(lambda: len(kept) == 2)
        for sock, address in kept:
            await sock.sendto(b"later", address)
        assert await receive(client) == ("later", "127.0.0.5")
        assert await receive(client) == ("later", "127.0.0.6")


def elsewhere(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.setblocking(False)
    return sock


async def test_other_ports_of_the_client_are_answers_too_and_other_hosts_are_not(
    client: socket.socket,
) -> None:
    with elsewhere("127.0.0.3") as same_host, elsewhere("127.0.0.4") as other_host:

        class Spread(aiosocketserver.BaseRequestHandler):
            async def handle(self) -> None:
                await self.request[1].sendto(b"same", same_host.getsockname())
                await self.request[1].sendto(b"other", other_host.getsockname())

        async with aiosocketserver.UDPServer(("", 0), Spread) as server:
            await server.start_serving()
            client.sendto(b"x", ("127.0.0.5", server.server_address[1]))
            assert await receive(same_host) == ("same", "127.0.0.5")
            # As ever: the kernel's choice.
            assert await receive(other_host) == ("other", "127.0.0.1")


@pytest.mark.parametrize("kind", ["threads", "children"])
async def test_legacy_calls_that_send_with_an_address_are_answers(
    kind: str, client: socket.socket
) -> None:
    with elsewhere("127.0.0.4") as other_host:

        class Many(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                sock: socket.socket = self.request[1]
                dont_wait = socket.MSG_DONTWAIT
                sock.sendto(b"1", self.client_address)
                sock.sendto(b"2", dont_wait, self.client_address)
                sock.sendmsg([b"3", b"+"], [], 0, self.client_address)
                sock.sendmsg([bytearray(b"4")], [], dont_wait, self.client_address)
                ttl = (socket.IPPROTO_IP, socket.IP_TTL, (5).to_bytes(4, "little"))
                sock.sendmsg([b"5"], [ttl], 0, self.client_address)
                sock.setblocking(False)
                sock.sendto(b"6", self.client_address)
                sock.settimeout(10)
                sock.sendto(b"7", self.client_address)
                sock.sendto(b"8", other_host.getsockname())

        async with KINDS[kind](("", 0), Many) as server:
            await server.start_serving()
            client.sendto(b"x", ("127.0.0.5", server.server_address[1]))
            answers = [await receive(client) for _ in range(7)]
            assert answers == [(text, "127.0.0.5") for text in ("1", "2", "3+", *"4567")]
            assert await receive(other_host) == ("8", "127.0.0.1")


async def test_a_program_that_chooses_the_address_itself_is_let(client: socket.socket) -> None:
    class Choose(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            info = bytes(4) + socket.inet_aton("127.0.0.77") + bytes(4)
            self.request[1].sendmsg([b"x"], [(socket.IPPROTO_IP, 8, info)], 0, self.client_address)

    async with aiosocketserver.ThreadingUDPServer(("", 0), Choose) as server:
        await server.start_serving()
        client.sendto(b"x", ("127.0.0.5", server.server_address[1]))
        assert await receive(client) == ("x", "127.0.0.77")


async def test_a_thread_that_the_handler_leaves_the_socket_to_answers_likewise(
    client: socket.socket,
) -> None:
    class Leave(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            threading.Thread(target=sock.sendto, args=(data, self.client_address)).start()

    async with aiosocketserver.ThreadingUDPServer(("", 0), Leave) as server:
        await server.start_serving()
        client.sendto(b"x", ("127.0.0.5", server.server_address[1]))
        assert await receive(client) == ("x", "127.0.0.5")


# --- a client that compares ---


class Reply(aiosocketserver.BaseRequestHandler):
    """Answers a DNS query with its own question, and no records."""

    async def handle(self) -> None:
        data, sock = self.request
        reply = data[:2] + bytes([data[2] | 0x80, 0x80]) + data[4:]
        await sock.sendto(reply, self.client_address)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_dig_takes_the_answer(host: str, require_program: Callable[[str], str]) -> None:
    dig = require_program("dig")
    async with aiosocketserver.UDPServer((host, 0), Reply) as server:
        await server.start_serving()
        port = str(server.server_address[1])
        command = [dig, "@127.0.0.5", "-p", port, "example.org", "+tries=1", "+time=5"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert "status: NOERROR" in done.stdout
    assert "unexpected source" not in done.stdout + done.stderr
    assert done.returncode == 0

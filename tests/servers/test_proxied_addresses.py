"""The addresses in PROXY headers: spelt as accept() spells them, and compared as what they are."""

import contextlib
import ipaddress
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiosocketserver import (
    ServerOptions,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    UnixStreamServer,
)
from aiosocketserver.deploy import access_log
from aiosocketserver.requests.statistics import RequestEnd
from aiosocketserver.servers.proxies import TrustedProxies
from aiosocketserver.servers.proxy_protocol import parse_header
from tests.support import ask, client_of, until

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def version_1(host: str) -> bytes:
    family = 6 if ":" in host else 4
    return f"PROXY TCP{family} {host} {host} 1025 443\r\n".encode()


def version_2(packed: bytes) -> bytes:
    family = 0x11 if len(packed) == 4 else 0x21
    block = packed + packed + struct.pack("!HH", 1025, 443)
    return SIGNATURE + struct.pack("!BBH", 0x21, family, len(block)) + block


def spelt(data: bytes) -> Any:
    parsed = parse_header(data)
    assert parsed is not None
    source, destination = parsed[0].source, parsed[0].destination
    assert source[0] == destination[0]
    assert source[2:] == destination[2:]
    assert (source[1], destination[1]) == (1025, 443)
    return source


def as_accept(packed: bytes) -> tuple[Any, ...]:
    """What the C library makes of an address of the kernel's."""
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    address = (socket.inet_ntop(family, packed), 1025, *((0, 0) if len(packed) == 16 else ()))
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return (socket.getnameinfo(address, flags)[0], *address[1:])


def ways_to_write(packed: bytes) -> set[str]:
    """An address in the forms that people and programs write."""
    if len(packed) == 4:
        return {socket.inet_ntoa(packed)}
    address = ipaddress.IPv6Address(packed)
    groups = [f"{int.from_bytes(packed[n : n + 2]):x}" for n in range(0, 16, 2)]
    forms = {
        str(address),
        address.exploded,
        address.exploded.upper(),
        address.compressed.upper(),
        ":".join(groups),
        ":".join(groups[:6]) + ":" + socket.inet_ntoa(packed[12:]),
        socket.inet_ntop(socket.AF_INET6, packed),
    }
    # All that a header has room for.
    return {form for form in forms if len(version_1(form)) <= 107}


HALF_EMPTY = st.lists(st.sampled_from([0, 0, 0, 1, 0xFFFF, 0x0A0B]), min_size=8, max_size=8).map(
    lambda groups: struct.pack("!8H", *groups)
)


@given(
    st.one_of(
        st.binary(min_size=16, max_size=16),
        HALF_EMPTY,
        st.binary(min_size=4, max_size=4),
        st.binary(min_size=4, max_size=4).map(lambda host: bytes(12) + host),
        st.binary(min_size=4, max_size=4).map(lambda host: bytes(10) + b"\xff\xff" + host),
    )
)
@example(bytes(16))
@example(bytes(15) + b"\x01")
@example(bytes(12) + socket.inet_aton("1.2.3.4"))
@example(bytes(14) + b"\x01\x00")
@example(bytes(10) + b"\xff\xff" + socket.inet_aton("1.2.3.4"))
@example(bytes.fromhex("fe80000000000000000000000000abcd"))
@example(bytes.fromhex("0064ff9b0000000000000000c0000221"))
@example(bytes.fromhex("20010db8000000010001000100010001"))
def test_every_address_is_spelt_as_accept_spells_it(packed: bytes) -> None:
    expected = as_accept(packed)
    assert spelt(version_2(packed)) == expected
    for text in ways_to_write(packed):
        assert spelt(version_1(text)) == expected, text


class Tells(StreamRequestHandler):
    async def handle(self) -> None:
        await self.wfile.write(repr(self.client_address).encode())


@contextlib.asynccontextmanager
async def serving_both(**options: Any) -> AsyncIterator[TCPServer]:
    """A server whose one socket takes IPv4 and IPv6."""
    sock = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    async with TCPServer(None, Tells, sock=sock, **options) as server:
        await server.start_serving()
        yield server


async def test_a_mapped_address_is_spelt_as_the_socket_itself_spells_it() -> None:
    async with serving_both() as server:
        (host, *_, flow, scope) = eval(await ask(("127.0.0.1", server.server_address[1])))
    for header in (version_1("::ffff:7f00:1"), version_2(bytes(10) + b"\xff\xff\x7f\x00\x00\x01")):
        assert spelt(header) == (host, 1025, flow, scope)


REQUIRED: ServerOptions = {"proxy_protocol": "required", "proxy_trusted": ["127.0.0.0/8"]}


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("1.2.3.4", ("1.2.3.4", 1025)),
        ("::FFFF:102:304", ("::ffff:1.2.3.4", 1025, 0, 0)),
        ("0:0:0:0:0:0:0102:0304", ("::1.2.3.4", 1025, 0, 0)),
        ("2001:DB8:0:0:0:0:0:1", ("2001:db8::1", 1025, 0, 0)),
    ],
)
@pytest.mark.parametrize("listener", ["IPv4", "both", "Unix"])
async def test_the_family_is_the_headers_whatever_the_listener_is(
    listener: str, written: str, address: tuple[Any, ...], tmp_path: Path
) -> None:
    if listener == "both":
        async with serving_both(**REQUIRED) as server:
            answer = await ask(("127.0.0.1", server.server_address[1]), version_1(written))
    else:
        where: Any = str(tmp_path / "s") if listener == "Unix" else ("127.0.0.1", 0)
        server_class = UnixStreamServer if listener == "Unix" else TCPServer
        async with server_class(where, Tells, **REQUIRED) as server:
            await server.start_serving()
            answer = await ask(server.server_address, version_1(written))
    assert eval(answer) == address


@pytest.mark.parametrize(
    ("network", "trusted"),
    [
        ("127.0.0.0/8", True),
        ("127.0.0.1", True),
        ("::ffff:127.0.0.0/104", True),
        ("::FFFF:7f00:1", True),
        ("::ffff:0:0/96", True),
        ("::ffff:10.0.0.0/104", False),
        ("::1", False),
        ("::/0", False),
        ("::127.0.0.1", False),
    ],
)
def test_mapped_addresses_and_networks_are_those_of_ipv4(network: str, trusted: bool) -> None:
    proxies = TrustedProxies([network])
    assert proxies.trust(("127.0.0.1", 1)) is trusted
    assert proxies.trust(("::ffff:127.0.0.1", 1, 0, 0)) is trusted


@pytest.mark.parametrize("server_class", [TCPServer, ThreadingTCPServer])
async def test_one_host_is_one_host_however_it_is_written(server_class: type[TCPServer]) -> None:
    class Waits(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"here\n")
            await self.rfile.readline()

    options = REQUIRED | ServerOptions(max_connections_per_host=1)
    async with server_class(("127.0.0.1", 0), Waits, **options) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await first.send(version_1("192.0.2.1"))
            assert await first.receive(5) == b"here\n"
            for header in (
                version_1("::ffff:192.0.2.1"),
                version_2(bytes(10) + b"\xff\xff" + socket.inet_aton("192.0.2.1")),
            ):
                with contextlib.suppress(ConnectionResetError):
                    assert await ask(server.server_address, header) == b""
            await until(lambda: server.statistics.refused == {"max_connections_per_host": 2})
            assert await ask(server.server_address, version_1("::192.0.2.1")) == b"here\n"


def test_the_access_log_tells_them_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", access_log.logger.name)
    address = spelt(version_1("0:0:0:0:0:FFFF:102:304"))
    access_log.log_text(RequestEnd(address, 7, 0.5, "finished", None, None))
    assert " [::ffff:1.2.3.4]:1025 #7 finished " in caplog.text

"""The parser of PROXY headers, and what it makes of anything that is none."""

import ipaddress
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiosocketserver import ProxyHeader
from aiosocketserver.servers.proxy_protocol import (
    ProxyHeaderError,
    is_header,
    parse_header,
    parse_tlvs,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def version_2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(block)) + block


IPV4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.7") + b"\x30\x39\x01\xbb"
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + b"\x30\x39\x01\xbb"
)
UNIX = b"/run/client".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0")

HEADERS: list[tuple[bytes, ProxyHeader]] = [
    # The examples of the specification, sections 2.1 and 2.2.
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        ProxyHeader(1, ("255.255.255.255", 65535), ("255.255.255.255", 65535)),
    ),
    (
        b"PROXY TCP6 " + 2 * b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " + b"65535 65535\r\n",
        ProxyHeader(
            1,
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 0, 0),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, 0, 0),
        ),
    ),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(1)),
    (
        b"PROXY UNKNOWN " + 2 * b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " + b"65535 65535\r\n",
        ProxyHeader(1),
    ),
    (
        b"PROXY TCP4 192.0.2.1 198.51.100.7 12345 443\r\n",
        ProxyHeader(1, ("192.0.2.1", 12345), ("198.51.100.7", 443)),
    ),
    (version_2(0, 0, b""), ProxyHeader(2)),
    # What a LOCAL header says of addresses is not of this connection.
    (version_2(0, 0x11, IPV4), ProxyHeader(2)),
    (version_2(1, 0, b"anything"), ProxyHeader(2)),
    (
        version_2(1, 0x11, IPV4),
        ProxyHeader(2, ("192.0.2.1", 12345), ("198.51.100.7", 443)),
    ),
    (
        version_2(1, 0x21, IPV6),
        ProxyHeader(2, ("2001:db8::1", 12345, 0, 0), ("2001:db8::2", 443, 0, 0)),
    ),
    (version_2(1, 0x31, UNIX), ProxyHeader(2, "/run/client", b"\0abstract")),
    (version_2(1, 0x31, bytes(216)), ProxyHeader(2, "", "")),
    (
        version_2(1, 0x12, IPV4 + b"\x02\x00\x0bexample.com\x04\x00\x00\x02\x00\x01x"),
        ProxyHeader(
            2,
            ("192.0.2.1", 12345),
            ("198.51.100.7", 443),
            ((2, b"example.com"), (4, b""), (2, b"x")),
        ),
    ),
]


@pytest.mark.parametrize(("data", "header"), HEADERS)
def test_a_header_is_told_from_what_follows_it(data: bytes, header: ProxyHeader) -> None:
    for rest in (b"", b"\r\n", b"GET / HTTP/1.1\r\n\r\n", data):
        assert parse_header(data + rest) == (header, len(data))


@pytest.mark.parametrize(("data", "header"), HEADERS)
def test_a_part_of_a_header_waits_for_the_rest(data: bytes, header: ProxyHeader) -> None:
    del header
    for length in range(len(data)):
        assert parse_header(data[:length]) is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"GET / HTTP/1.1\r\n", "begins with"),
        (b"PROXY\r\n", "begins with"),
        (b"proxy tcp4 ", "begins with"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "not a PROXY header"),
        (b"PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n", "not a PROXY header"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", "not a PROXY header"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "65536 is no port"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n", "not a PROXY header"),
        (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", "not a PROXY header"),
        (b"PROXY TCP4 ::1 ::1 1 1\r\n", "::1 is no IPv4 address"),
        (b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", "1.2.3.4 is no IPv6 address"),
        (b"PROXY TCP6 ::1%lo ::1 1 1\r\n", "not a PROXY header"),
        (b"PROXY UNKNOWNS\r\n", "not a PROXY header"),
        (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "not a PROXY header"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", "ends with"),
        (b"PROXY UNKNOWN " + bytes(93), "within 107 bytes"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "within 107 bytes"),
        (SIGNATURE + b"\x11\x11\x00\x00", "0x20 or 0x21, not 0x11"),
        (SIGNATURE + b"\x22\x11\x00\x00", "0x20 or 0x21, not 0x22"),
        (version_2(1, 0x41, IPV4), "unknown family and transport: 0x41"),
        (version_2(1, 0x13, IPV4), "unknown family and transport: 0x13"),
        (version_2(1, 0x11, IPV4[:-1]), "take 12 bytes, and there are 11"),
        (version_2(1, 0x21, IPV4), "take 36 bytes, and there are 12"),
        (version_2(1, 0x11, IPV4 + b"\x02\x00"), "ends within a TLV"),
        (version_2(1, 0x11, IPV4 + b"\x02\x00\x05four"), "says 5 bytes, and 4 are left"),
    ],
)
def test_what_is_no_header_is_told(data: bytes, problem: str) -> None:
    with pytest.raises(ProxyHeaderError, match=problem):
        parse_header(data)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
def test_nothing_else_is_raised(data: bytes, beginning: bytes) -> None:
    data = beginning + data
    try:
        parsed = parse_header(data)
    except ProxyHeaderError:
        return
    if parsed is not None:
        header, length = parsed
        assert 0 < length <= len(data)
        assert parse_header(data[:length]) == parsed
        assert header.version in (1, 2)


def _addresses(version: int) -> st.SearchStrategy[tuple[Any, ...]]:
    def address(ip: Any, port: int) -> tuple[Any, ...]:
        if version == 4:
            return (str(ip), port)
        return (socket.inet_ntop(socket.AF_INET6, ip.packed), port, 0, 0)

    return st.builds(address, st.ip_addresses(v=version), st.integers(0, 65535))  # type: ignore[arg-type]


@given(
    st.sampled_from([4, 6]).flatmap(lambda v: st.tuples(st.just(v), _addresses(v), _addresses(v))),
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=5),
    st.binary(max_size=50),
)
def test_what_is_built_is_read(
    addresses: tuple[int, tuple[Any, ...], tuple[Any, ...]],
    tlvs: list[tuple[int, bytes]],
    rest: bytes,
) -> None:
    version, source, destination = addresses
    line = f"PROXY TCP{version} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n"
    first = parse_header(line.encode() + rest)
    assert first == (ProxyHeader(1, source, destination), len(line))
    block = b"".join(ipaddress.ip_address(a[0]).packed for a in (source, destination))
    block += struct.pack("!HH", source[1], destination[1])
    block += b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    data = version_2(1, 0x11 if version == 4 else 0x21, block)
    second = parse_header(data + rest)
    assert second is not None
    header, length = second
    assert length == len(data)
    assert header.tlvs == tuple(tlvs)
    assert (header.source, header.destination) == (source, destination)


def test_the_first_tlv_of_a_type_is_found() -> None:
    header = ProxyHeader(2, tlvs=((2, b"a"), (2, b"b")))
    assert (header.tlv(2), header.tlv(3)) == (b"a", None)
    # PP2_TYPE_SSL has TLVs of its own, behind five bytes.
    ssl = b"\x01\x00\x00\x00\x00" + b"\x21\x00\x07TLSv1.3"
    assert dict(parse_tlvs(ssl[5:])) == {0x21: b"TLSv1.3"}


def test_the_beginning_tells_whether_there_is_a_header() -> None:
    assert [is_header(data) for data in (b"", b"P", b"\r\n\r\n", b"PROXY ", SIGNATURE)] == [
        None,
        None,
        None,
        True,
        True,
    ]
    assert [is_header(data) for data in (b"PRI * HTTP/2.0", b"\r\n\r\nx", b"\x16\x03\x01")] == [
        False
    ] * 3

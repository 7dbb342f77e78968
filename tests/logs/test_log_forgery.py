"""Text of clients in logs: nothing that they send or are called looks like a line of ours."""

import contextlib
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    StreamSocket,
    TCPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from aiosocketserver.deploy import access_log
from aiosocketserver.requests.statistics import RequestEnd
from tests.deploy_support import get, serving_command
from tests.support import client_of, until

FORGED = "2026-01-01T00:00:00.000+00:00 10.0.0.1:1 #7 finished 0.1 s 0 in 0 out"

# Names to which a Unix client can bind its socket. Each is another address.
NAMES = [
    b"plain",
    b"/tmp/plain",
    b"x\n" + FORGED.encode()[:60],
    b"x\r" + FORGED.encode()[:60],
    b"\x1b[2J\x1b]0;title\x07",
    b"\x9b31m",
    b"\xff\xfe",
    b"\\xff\\xfe",
    "\u202eelif".encode(),
    "\u2028next".encode(),
    "caf\u00e9".encode(),
    b"x #1 finished 0.000001 s",
    b'"quoted"',
    b"'quoted'",
    b"-",
    b"#1",
    b"@name",
    b"\0name",
    b"\0name\0",
    b"\0-",
    b"\0\n\x1b\xff",
    b"127.0.0.1:80",
    b"[::1]:80",
    b"back\\slash",
]
NAMED = pytest.mark.parametrize("name", NAMES, ids=ascii)

WORD = re.compile(r"[!-~]+")


def as_accepted(name: bytes) -> Any:
    """As `accept` tells it."""
    return name if name.startswith(b"\0") else os.fsdecode(name)


def ends(addresses: list[Any]) -> list[RequestEnd]:
    return [RequestEnd(address, 7, 0.25, "finished", 1, 2) for address in addresses]


# --- the access log ---


def test_each_line_of_text_has_its_words_and_no_two_addresses_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver.access")
    addresses = [*map(as_accepted, NAMES), ("127.0.0.1", 80), ("::1", 80, 0, 0), ""]
    for end in ends(addresses):
        access_log.log_text(end)
    words = [line.split(" ") for line in caplog.messages]
    assert all(len(line) == 10 and all(map(WORD.fullmatch, line)) for line in words)
    assert len({line[1] for line in words}) == len(addresses)


def test_addresses_that_need_no_escapes_read_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver.access")
    for end in ends(
        ["/run/client", b"\0name", "client", "../client", "-", "a b\n", ("1.2.3.4", 5)]
    ):
        access_log.log_text(end)
    assert [line.split(" ")[1] for line in caplog.messages] == [
        *("/run/client", "@name", "./client", "../client", "./-", r"./a\x20b\x0a", "1.2.3.4:5")
    ]


def test_json_can_be_read_by_everybody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver.access")
    addresses = [*map(as_accepted, NAMES), ("fe80::1%eth\n0", 1, 0, 2)]
    for end in ends(addresses):
        access_log.log_json(end)
    clients = [json.loads(line)["client"] for line in caplog.messages]
    # A lone surrogate cannot be encoded, and many parsers refuse it.
    assert all(WORD.fullmatch(client.encode().decode()) for client in clients)
    assert len(set(clients)) == len(addresses)


@pytest.mark.parametrize(
    "address", [("host", "port"), (3, 1234), ("x",), 17, ["a\n"], object(), ("a\nb", 1)], ids=ascii
)
def test_what_an_overridden_get_request_returns_is_one_word(
    address: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver.access")
    (end,) = ends([address])
    access_log.log_text(end)
    access_log.log_json(end)
    assert len(caplog.messages[0].split(" ")) == 10
    assert WORD.fullmatch(json.loads(caplog.messages[1])["client"])


# --- log records, of every kind of line about a client ---


class Fails(BaseRequestHandler):
    async def handle(self) -> None:
        raise KeyError("x")


class Waits(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.recv(1)


class Answers(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request[1].sendto(b"x", self.client_address)


MAKE: list[Any] = [
    lambda: UnixStreamServer("s", Fails),
    lambda: UnixStreamServer("s", Waits, idle_timeout=0.001),
    # "x" is no header: a line of the proxy, and one of a refusal.
    lambda: UnixStreamServer("s", Fails, proxy_protocol="required"),
]


@contextlib.contextmanager
def named_client(name: bytes, kind: int, folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as client:
        if name.startswith(b"/"):
            name = os.fsencode(folder / "absolute")
        client.bind(name)
        yield client


FORMATTER = logging.Formatter("%(client_address)s %(message)s")


def check_lines(caplog: pytest.LogCaptureFixture) -> None:
    assert caplog.records
    for record in caplog.records:
        first = FORMATTER.format(record).split("\nTraceback (most recent call last):")[0]
        assert first.isprintable(), first
        first.encode()


@NAMED
async def test_records_about_a_unix_client(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, "aiosocketserver")
    for make in MAKE:
        with contextlib.suppress(OSError, ValueError):
            os.unlink("absolute" if name.startswith(b"/") else name)
        caplog.clear()
        async with make() as server:
            await server.start_serving()
            with named_client(name, socket.SOCK_STREAM, tmp_path) as client:
                client.connect("s")
                if server.idle_timeout is None:
                    client.send(b"x")
                    client.shutdown(socket.SHUT_WR)
                await until(lambda: server.statistics.finished)
        check_lines(caplog)


@NAMED
async def test_records_about_a_unix_client_that_cannot_be_answered(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG, "aiosocketserver")
    async with UnixDatagramServer("s", Answers) as server:
        with named_client(name, socket.SOCK_DGRAM, tmp_path) as client:
            client.sendto(b"x", "s")
        await server.handle_request()
    check_lines(caplog)


# --- what is shown of objects ---


async def test_the_repr_of_a_handlers_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = []

    class Shows(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            shown.append(repr(self.request))

    async with UnixStreamServer("s", Shows) as server:
        await server.start_serving()
        with named_client(b"a\n\x1b\xff", socket.SOCK_STREAM, tmp_path) as client:
            client.connect("s")
            await until(lambda: shown)
    assert shown[0].isprintable()
    assert r"a\n\x1b\udcff" in shown[0]


# --- PROXY headers ---


def proxy_header(name: bytes) -> bytes:
    addresses = name.ljust(108, b"\0") + b"/server".ljust(108, b"\0")
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x31, len(addresses)) + addresses


async def test_a_header_that_is_long_and_ends_early_is_one_short_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    options: dict[str, Any] = {"proxy_protocol": "required", "proxy_trusted": ["127.0.0.0/8"]}
    async with TCPServer(("127.0.0.1", 0), Waits, **options) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            head = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x31, 65535)
            await client.send(head + b"\x1b" * 30_000)
            client.finish()
            await until(lambda: server.statistics.refused)
    check_lines(caplog)
    (message,) = [m for m in caplog.messages if "a proxy at" in m]
    assert "after 30016 bytes" in message
    assert len(message) < 300


# --- a service, whole ---

APPLICATION = """
from aiosocketserver import StreamRequestHandler
class Fails(StreamRequestHandler):
    async def handle(self):
        line = await self.rfile.readline()
        if line:
            raise ValueError("unknown command " + line.decode(errors="surrogateescape"))
"""


def test_a_service_writes_no_line_that_a_client_made_up(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(APPLICATION)
    arguments = ("--proxy-protocol", "required", "--access-log", "text")
    bind = ("failing:Fails", "--bind", f"unix://{tmp_path}/s")
    with serving_command(tmp_path, *bind, *arguments) as command:
        command.until(r"\] serving ")
        for name in NAMES:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.sendall(proxy_header(name) + b"x\r2026 ERROR \x1b[31m\xff\x85forged\n")
                client.shutdown(socket.SHUT_WR)
                while client.recv(100):
                    pass
        assert command.end() == 0
        assert command.process.stdout is not None
        access = command.process.stdout.read().splitlines()
    assert len(access) == len(NAMES)
    assert all(len(line.split(" ")) == 10 and line.isprintable() for line in access)
    # At the end of a name in a header, NULs are none of it.
    assert len({line.split(" ")[1] for line in access}) == len(NAMES) - 1
    # Each record begins with its time, and nothing else does.
    records = [line for line in command.lines if not line.startswith("    ")]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:", line) for line in records), records
    assert all(line.isprintable() for line in command.lines)
    assert any(r"unknown command x\r2026 ERROR \x1b[31m\udcff" in s for s in command.lines)


def test_the_port_for_metrics_shows_no_bytes_of_a_broken_request(tmp_path: Path) -> None:
    arguments = ("application:Echo", "--bind", "tcp://127.0.0.1:0", "--metrics", "127.0.0.1:0")
    with serving_command(tmp_path, *arguments) as command:
        match = command.until(r"health on http://127\.0\.0\.1:(\d+)")
        with socket.create_connection(("127.0.0.1", int(match[1]))) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nCont\x1b[31ment: \xff\r\n\r\n")
            answer = b""
            while data := client.recv(4096):
                answer += data
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"\x1b" not in answer
        assert get(int(match[1]), "/healthz")[0] == 200
        assert command.end() == 0

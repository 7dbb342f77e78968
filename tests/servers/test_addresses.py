"""What a server can be bound to, and what a wrong address gets."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    TCPServer,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from aiosocketserver.servers.addresses import UNIX_PATH_MAX, family_of
from tests.support import ask


class Hello(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"hello")


# Internet addresses


async def test_port_0_becomes_the_real_port_at_once() -> None:
    async with TCPServer(("127.0.0.1", 0), Hello) as server:
        host, port = server.server_address
        assert host == "127.0.0.1"
        assert port == server.socket.getsockname()[1] > 0


async def test_a_host_name_is_resolved() -> None:
    async with TCPServer(("localhost", 0), Hello) as server:
        assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
@pytest.mark.parametrize("host", [None, "", b""])
@pytest.mark.parametrize(
    ("family", "wildcard"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
)
def test_no_host_is_the_wildcard_address_of_the_family(
    server_class: type[TCPServer], host: Any, family: int, wildcard: str
) -> None:
    server = server_class((host, 0), Hello, address_family=family)
    assert server.server_address[0] == wildcard
    assert server.server_address == server.socket.getsockname()
    server.server_close()


def test_a_hook_that_binds_by_itself_gets_an_address_for_bind() -> None:
    class Binds(TCPServer):
        def server_bind(self) -> None:
            self.socket.bind(self.server_address)
            self.server_address = self.socket.getsockname()

    server = Binds((None, 0), Hello)
    assert server.server_address[0] == "0.0.0.0"
    server.server_close()


@pytest.mark.parametrize("host", ["::1", b"::1", "0:0:0:0:0:0:0:1"])
async def test_an_ipv6_literal_makes_an_ipv6_server(host: Any) -> None:
    async with TCPServer((host, 0), Hello) as server:
        assert server.address_family == socket.AF_INET6
        await server.start_serving()
        assert await ask(server.server_address) == b"hello"
    assert TCPServer.address_family == socket.AF_INET


async def test_ipv6_by_class_and_by_keyword() -> None:
    class V6(TCPServer):
        address_family = socket.AF_INET6

    for server in (
        V6(("::1", 0), Hello),
        TCPServer(("::1", 0), Hello, address_family=socket.AF_INET6),
    ):
        async with server:
            await server.start_serving()
            assert server.server_address[0] == "::1"
            assert await ask(server.server_address) == b"hello"


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("::", socket.AF_INET6),
        ("fe80::1%lo", socket.AF_INET6),
        ("::ffff:127.0.0.1", socket.AF_INET6),
        ("127.0.0.1", socket.AF_INET),
        ("", socket.AF_INET),
        ("<broadcast>", socket.AF_INET),
        ("localhost", socket.AF_INET),
        (b"\xff\xfe", socket.AF_INET),
    ],
)
def test_only_a_literal_changes_the_family(host: str, family: int) -> None:
    assert family_of((host, 0), socket.AF_INET) == family
    assert family_of((host, 0), socket.AF_INET6) == socket.AF_INET6


def test_another_family_is_left_to_the_socket() -> None:
    assert family_of(object(), socket.AF_APPLETALK) == socket.AF_APPLETALK


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("127.0.0.1:80", TypeError, "must be a (host, port) tuple, and is '127.0.0.1:80'"),
        (["127.0.0.1", 80], TypeError, "must be a (host, port) tuple"),
        (("127.0.0.1",), TypeError, "must be a (host, port) tuple"),
        (("::1", 80, 0, 0, 0), TypeError, "must be a (host, port) tuple"),
        (
            (4, 80),
            TypeError,
            "must be a string, or None for all addresses of this machine, and is 4",
        ),
        ((None, None), TypeError, "must be a whole number, and is None"),
        (("a\0b", 80), ValueError, "not an address to bind to: ('a\\x00b', 80)"),
        (("127.0.0.1", "80"), TypeError, "must be a whole number, and is '80'"),
        (("127.0.0.1", 65536), ValueError, "must be 0 to 65535, and is 65536"),
        (("127.0.0.1", -1), ValueError, "must be 0 to 65535, and is -1"),
    ],
)
@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
def test_an_address_of_the_wrong_form_is_an_error(
    server_class: type[TCPServer], address: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        server_class(address, Hello)
    assert message in str(raised.value)


@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
def test_a_name_that_does_not_resolve_is_an_error_that_names_it(
    server_class: type[TCPServer],
) -> None:
    with pytest.raises(socket.gaierror, match=r"no\.such\.host\.invalid"):
        server_class(("no.such.host.invalid", 0), Hello)


def test_an_ipv4_literal_on_an_ipv6_class_is_an_error_that_names_it() -> None:
    with pytest.raises(socket.gaierror, match=r"127\.0\.0\.1.*looked for an IPv6 address"):
        TCPServer(("127.0.0.1", 0), Hello, address_family=socket.AF_INET6)


@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
def test_a_port_in_use_is_an_error_that_names_it(server_class: type[TCPServer]) -> None:
    first = server_class(("127.0.0.1", 0), Hello)
    with pytest.raises(OSError, match=str(first.server_address[1])) as raised:
        server_class(first.server_address, Hello)
    assert raised.value.errno == errno.EADDRINUSE
    first.server_close()


def test_an_address_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1") as raised:
        TCPServer(("192.0.2.1", 0), Hello)
    assert raised.value.errno == errno.EADDRNOTAVAIL


# Unix paths

UNIX = [UnixStreamServer, UnixDatagramServer]


@pytest.mark.parametrize("form", [str, os.fsencode, Path])
@pytest.mark.parametrize("server_class", UNIX)
def test_a_path_may_be_text_bytes_or_path_like(
    tmp_path: Path, server_class: type[TCPServer], form: Any
) -> None:
    path = tmp_path / "s"
    server = server_class(form(path), Hello)
    assert server.server_address == str(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    server.server_close()
    assert not path.exists()
    server.server_close()


async def test_an_abstract_name() -> None:
    name = f"\0aiosocketserver-{os.getpid()}"
    async with UnixStreamServer(name, Hello) as server:
        assert server.server_address == name.encode()
        await server.start_serving()
        assert await ask(server.server_address) == b"hello"


def test_a_path_with_a_nul_within_is_an_error_and_not_another_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for server_class in UNIX:
        with pytest.raises(ValueError, match="has no NUL within, and this one has: b'a"):
            server_class("a\0b", Hello)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["", b"", None, ("127.0.0.1", 80), 80])
def test_what_is_no_path_is_an_error(address: Any) -> None:
    with pytest.raises(TypeError, match="must be a path"):
        UnixStreamServer(address, Hello)


def test_a_path_that_is_too_long_is_an_error_that_tells_the_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "s").ljust(UNIX_PATH_MAX + 1, "x")
    with pytest.raises(OSError, match="may have 107 bytes, and has 108") as raised:
        UnixStreamServer(path, Hello)
    assert raised.value.errno == errno.ENAMETOOLONG
    assert raised.value.filename == path
    longest = UnixStreamServer(path[:-1], Hello)
    longest.server_close()


def test_an_abstract_name_may_be_one_byte_longer() -> None:
    longest = "\0" + "x" * UNIX_PATH_MAX
    UnixStreamServer(longest, Hello).server_close()
    with pytest.raises(OSError, match="may have 108 bytes, and has 109"):
        UnixStreamServer(longest + "x", Hello)


@pytest.mark.parametrize("server_class", UNIX)
def test_the_socket_of_a_live_server_is_left_alone(
    tmp_path: Path, server_class: type[TCPServer]
) -> None:
    path = tmp_path / "s"
    first = server_class(path, Hello)
    with pytest.raises(OSError, match="another server is listening") as raised:
        server_class(path, Hello)
    assert raised.value.errno == errno.EADDRINUSE
    assert raised.value.filename == str(path)
    assert path.exists()
    first.server_close()


def test_a_live_server_of_another_type_or_with_a_full_backlog_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = UnixStreamServer(path, Hello, request_queue_size=0)
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(path))
        for server_class in UNIX:
            with pytest.raises(OSError, match="another server is listening"):
                server_class(path, Hello)
    first.server_close()


@pytest.mark.parametrize("server_class", UNIX)
def test_a_server_that_starts_is_not_taken_for_a_stale_one(
    tmp_path: Path, server_class: type[TCPServer]
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, server_class.socket_type) as starting:
        starting.bind(str(path))
        with pytest.raises(OSError, match="another server is listening"):
            server_class(path, Hello)
        assert path.is_socket()


@pytest.mark.parametrize("server_class", UNIX)
def test_a_live_server_is_not_disturbed_by_the_question_whether_it_lives(
    tmp_path: Path, server_class: type[TCPServer]
) -> None:
    first = server_class(tmp_path / "s", Hello)
    with pytest.raises(OSError, match="another server is listening"):
        server_class(tmp_path / "s", Hello)
    first.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        first.get_request()
    first.server_close()


@pytest.mark.parametrize("server_class", UNIX)
def test_a_stale_socket_is_replaced(tmp_path: Path, server_class: type[TCPServer]) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, server_class.socket_type) as stale:
        stale.bind(str(path))
    server = server_class(path, Hello)
    with socket.socket(socket.AF_UNIX, server_class.socket_type) as client:
        client.connect(str(path))
    server.server_close()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_another_file_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(FileExistsError, match="not a socket, and it is left alone") as raised:
        UnixStreamServer(path, Hello)
    assert raised.value.filename == str(path)
    assert os.path.lexists(path)
    if kind == "file":
        assert path.read_text() == "precious"


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "s"
    with pytest.raises(FileNotFoundError, match="there is no folder") as raised:
        UnixStreamServer(path, Hello)
    assert repr(str(path.parent)) in str(raised.value)
    assert raised.value.filename == str(path)


def test_only_its_own_path_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = UnixStreamServer(path, Hello)
    path.unlink()
    second = UnixStreamServer(path, Hello)
    first.server_close()
    assert path.exists(), "it is the second server's by now"
    second.server_close()
    assert not path.exists()


def test_a_path_that_is_gone_or_unreachable_does_not_keep_the_socket_open(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    server = UnixStreamServer(folder / "s", Hello)
    (folder / "s").unlink()
    folder.rmdir()
    folder.write_text("where the folder was")
    server.server_close()
    assert server.fileno() == -1

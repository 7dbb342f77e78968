"""What a service can serve, and what is said of what it cannot."""

import functools
import socket
import socketserver
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
    ThreadingUnixDatagramServer,
    UDPServer,
    UnixStreamServer,
)
from aiosocketserver.deploy.binds import Bind, OpenSocket, SocketOptions, open_sockets
from aiosocketserver.deploy.targets import TargetError, load_target, make_server
from tests.deploy_support import ask, refused, serving_application


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Datagram(aiosocketserver.DatagramRequestHandler):
    async def handle(self) -> None:
        self.wfile.write(self.rfile.read())


class Legacy(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        pass


class NoHandle(StreamRequestHandler):
    pass


class Own(TCPServer):
    def __init__(self, server_address: Any, **options: Any) -> None:
        super().__init__(server_address, Echo, **options)


@pytest.fixture
def tcp() -> Iterator[OpenSocket]:
    (opened,) = open_sockets([Bind.parse("tcp://127.0.0.1:0")], SocketOptions())
    yield opened
    opened.close()


@pytest.fixture
def udp() -> Iterator[OpenSocket]:
    (opened,) = open_sockets([Bind.parse("udp://127.0.0.1:0")], SocketOptions())
    yield opened
    opened.close()


def test_the_server_class_is_as_handler_and_socket_ask_for(
    tcp: OpenSocket, udp: OpenSocket, tmp_path: Path
) -> None:
    unix, datagrams = open_sockets(
        [Bind.parse(f"unix://{tmp_path}/a"), Bind.parse(f"unix-dgram://{tmp_path}/b")],
        SocketOptions(),
    )
    for target, opened, expected in (
        (Echo, tcp, TCPServer),
        (functools.partial(Echo), tcp, TCPServer),
        (Legacy, tcp, ThreadingTCPServer),
        (Datagram, udp, UDPServer),
        (Echo, unix, UnixStreamServer),
        (Legacy, datagrams, ThreadingUnixDatagramServer),
        (Own, tcp, Own),
        (lambda address, **options: Own(address, **options), tcp, Own),
    ):
        server = make_server(target, opened, {})
        assert type(server) is expected
        assert server.socket is opened.sock
        assert server.server_address == opened.address
        assert server.address_family == opened.sock.family
    unix.close()
    datagrams.close()


class NoRoomForOptions(TCPServer):
    def __init__(self, server_address: Any, bind_and_activate: bool = True) -> None:
        super().__init__(server_address, Echo, bind_and_activate)


class ForgetsOptions(TCPServer):
    def __init__(self, server_address: Any, **options: Any) -> None:
        del options
        super().__init__(server_address, Echo, bind_and_activate=False)


class AtItsOwnAddress(TCPServer):
    def __init__(self, server_address: Any, **options: Any) -> None:
        del server_address
        super().__init__(("127.0.0.1", 0), Echo, **options)


def makes(server_address: Any, **options: Any) -> TCPServer:
    return NoRoomForOptions(server_address, **options)


@pytest.mark.parametrize("target", [NoRoomForOptions, ForgetsOptions, AtItsOwnAddress, makes])
def test_what_has_no_place_for_a_socket_gets_it_afterwards(target: Any, tcp: OpenSocket) -> None:
    server = make_server(target, tcp, {})
    assert server.socket is tcp.sock
    assert server.server_address == tcp.address


class TakesSock(TCPServer):
    def __init__(self, server_address: Any, *, sock: socket.socket, **options: Any) -> None:
        super().__init__(server_address, Echo, sock=sock, **options)


def takes_sock(address: Any, bind_and_activate: bool, sock: socket.socket | None) -> TCPServer:
    return TCPServer(address, Echo, bind_and_activate, sock=sock)


@pytest.mark.parametrize("target", [Echo, Legacy, TakesSock, takes_sock])
def test_no_other_socket_is_opened(
    target: Any, tcp: OpenSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        pytest.fail("there is a socket already")

    monkeypatch.setattr(socket.socket, "__init__", fail)
    server = make_server(target, tcp, {})
    monkeypatch.undo()
    assert server.socket is tcp.sock


def test_a_server_gets_the_options_that_it_has(tcp: OpenSocket, udp: OpenSocket) -> None:
    options = {"max_connections": 3, "max_queue": 4, "request_timeout": 5.0}
    server = make_server(Echo, tcp, options)
    assert isinstance(server, TCPServer)
    assert (server.max_connections, server.request_timeout) == (3, 5.0)
    datagrams = make_server(Datagram, udp, options)
    assert isinstance(datagrams, UDPServer)
    assert (datagrams.request_timeout, datagrams.max_queue) == (5.0, 4)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (5, "it is neither a handler class nor a server class, nor a function make("),
        (int, "it is neither a handler class"),
        (NoHandle, "NoHandle has no handle"),
        (TCPServer, "missing 1 required positional argument: 'RequestHandlerClass'"),
        (lambda address, **options: None, "gave None"),
        (lambda address: None, "unexpected keyword argument 'bind_and_activate'"),
        (UDPServer, "missing 1 required positional argument"),
    ],
)
def test_what_cannot_be_served_is_told(target: Any, problem: str, tcp: OpenSocket) -> None:
    with pytest.raises(TargetError, match=problem.replace("(", r"\(")):
        make_server(target, tcp, {})


@pytest.mark.parametrize("package", [aiosocketserver, socketserver])
def test_a_handler_for_something_else_is_told(
    package: Any, tcp: OpenSocket, udp: OpenSocket
) -> None:
    async def handle(self: Any) -> None:
        del self

    def plain(self: Any) -> None:
        del self

    attributes = {"handle": plain if package is socketserver else handle}
    lines = type("Lines", (package.StreamRequestHandler,), attributes)
    packets = type("Packets", (package.DatagramRequestHandler,), attributes)
    with pytest.raises(TargetError, match="datagrams come there: derive it from DatagramReq"):
        make_server(lines, udp, {})
    with pytest.raises(TargetError, match="connections come there: derive it from StreamReq"):
        make_server(functools.partial(packets), tcp, {})


def test_a_server_for_something_else_is_told(tcp: OpenSocket, udp: OpenSocket) -> None:
    class Datagrams(UDPServer):
        def __init__(self, address: Any, **options: Any) -> None:
            super().__init__(address, BaseHandles, **options)

    class BaseHandles(BaseRequestHandler):
        async def handle(self) -> None:
            pass

    with pytest.raises(TargetError, match=r"Datagrams is for datagrams, and cannot be .* tcp://"):
        make_server(Datagrams, tcp, {})
    with pytest.raises(TargetError, match=r"Own is for connections, and cannot be served on udp"):
        make_server(Own, udp, {})


# --- names ---


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "served.py").write_text(
        "from aiosocketserver import StreamRequestHandler\n"
        "class Echo(StreamRequestHandler):\n    async def handle(self): pass\n"
        "class Outer:\n    Inner = Echo\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "lacks.py").write_text("import no_such_module\n")
    (tmp_path / "empty.py").write_text("")
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_modules_and_files(modules: Path) -> None:
    assert load_target("served:Echo").__qualname__ == "Echo"
    assert load_target("served:Outer.Inner").__qualname__ == "Echo"
    (modules / "below").mkdir()
    (modules / "below" / "beside.py").write_text("value = 7\n")
    (modules / "below" / "file.py").write_text("from beside import value\n")
    assert load_target("below/file.py:value") == 7


@pytest.mark.parametrize(
    ("text", "problem", "cause"),
    [
        ("served", "is not of the form module:Name", None),
        ("served:", "is not of the form", None),
        (":Echo", "is not of the form", None),
        ("served:Ecko", "there is no 'Ecko' in served; it has Echo", None),
        ("empty:Echo", "it has no handler and no server class", None),
        ("nowhere:Echo", "there is no module 'nowhere', looked for in", None),
        ("nowhere.at.all:Echo", "there is no module 'nowhere'", None),
        ("nowhere.py:Echo", "there is no file 'nowhere.py'", None),
        ("lacks:Echo", "could not be imported: No module named 'no_such", ModuleNotFoundError),
        ("broken:Echo", "could not be imported: ZeroDivisionError", ZeroDivisionError),
        ("broken.py:Echo", "could not be imported: ZeroDivisionError", ZeroDivisionError),
    ],
)
def test_what_is_not_there_is_told(
    text: str, problem: str, cause: type[Exception] | None, modules: Path
) -> None:
    del modules
    with pytest.raises(TargetError) as caught:
        load_target(text)
    assert problem in str(caught.value)
    assert type(caught.value.__cause__) is (cause or type(None))


def test_the_command_shows_the_traceback_of_a_module_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for workers in ("1", "2"):
        lines = refused(
            tmp_path, "broken:Echo", "--bind", "tcp://127.0.0.1:0", "--workers", workers
        )
        assert lines[0] == "Traceback (most recent call last):"
        assert sum("ZeroDivisionError: division by zero" in line for line in lines) == 2
        (told,) = [line for line in lines if line.startswith("aiosocketserver: ")]
        problem = "could not be imported: ZeroDivisionError: division by zero"
        assert told == f"aiosocketserver: the target 'broken:Echo' {problem}"


@pytest.mark.parametrize(
    "target", ["application:Server", "application:make", "application.py:Echo"]
)
def test_servers_and_factories_are_served(target: str, tmp_path: Path) -> None:
    with serving_application(tmp_path, target, "--bind", "tcp://127.0.0.1:0") as command:
        assert ask(command.ports[0], b"hello\n").endswith(b"hello\n")
        assert command.end() == 0

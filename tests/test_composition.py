"""A server is made of parts: few classes, and none that waits to be filled in."""

import ast
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
    UDPServer,
    UnixDatagramServer,
    UnixStreamServer,
)
from aiosocketserver.compat.coroutines import CoroutineRequests
from tests.support import client_of

PACKAGE = Path(aiosocketserver.__file__).parent

# Hooks of socketserver's that have nothing to do by themselves.
HOOKS = {"get_request", "handle"}


def classes_of(cls: type) -> list[str]:
    return [each.__name__ for each in cls.__mro__ if each.__module__.startswith("aiosocketserver")]


@pytest.mark.parametrize("server_class", [TCPServer, UDPServer])
def test_a_server_is_four_classes(server_class: type) -> None:
    name = server_class.__name__
    assert classes_of(server_class) == [name, "SocketServer", "BaseServer", "RequestPipeline"]


@pytest.mark.parametrize("server_class", [UnixStreamServer, UnixDatagramServer])
def test_one_on_unix_sockets_says_where_they_differ(server_class: type) -> None:
    _, *others = classes_of(server_class)
    assert len(others) == 4
    assert {each for each in vars(server_class) if not each.startswith("__")} <= {
        "address_family",
        "_reliable",
    }


def test_what_serves_for_compat_is_no_server() -> None:
    assert classes_of(CoroutineRequests) == ["CoroutineRequests", "RequestPipeline"]


def test_the_socket_of_a_handler_is_four_classes() -> None:
    fields = "StreamTries" if aiosocketserver.native else "PythonStreamFields"
    assert classes_of(StreamSocket) == ["StreamSocket", "StreamCore", "PlainSocket", fields]


async def test_an_echoed_line_goes_through_few_files() -> None:
    class Echo(StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(line)

    files = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        path = Path(frame.f_code.co_filename)
        if PACKAGE not in path.parents:
            return None
        # Not the call: a coroutine that only awaits the next one is resumed, and does nothing.
        if event == "line":
            files.add(path.name)
        return trace

    async with (
        TCPServer(("127.0.0.1", 0), Echo) as server,
        client_of(server.server_address) as client,
    ):
        await server.start_serving()
        await client.send(b"first\n")
        assert await client.receive(6) == b"first\n"
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            await client.send(b"second\n")
            assert await client.receive(7) == b"second\n"
        finally:
            sys.settrace(before)
    in_python = set() if aiosocketserver.native else {"waiter.py"}
    assert files == {"core.py", "files.py", "receive_buffer.py", "send_queue.py"} | in_python


def test_no_method_waits_to_be_filled_in() -> None:
    found = []
    # compat is behind a link, which rglob() does not follow.
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "compat").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in HOOKS:
                last = ast.unparse(node.body[-1])
                if len(node.body) <= 2 and last.startswith("raise NotImplementedError"):
                    found.append(f"{path.name}: {node.name}")
    assert found == []

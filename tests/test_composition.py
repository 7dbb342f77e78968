"""A server is made of parts: few classes, and none that waits to be filled in."""

import ast
from pathlib import Path

import pytest

import aiosocketserver
from aiosocketserver import TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer
from aiosocketserver.compat.coroutines import CoroutineRequests

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

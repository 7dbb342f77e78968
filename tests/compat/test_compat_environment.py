"""What decides how a server serves is looked at when it begins to, and not for each request."""

import builtins
import importlib.util
import os
import socket
import socketserver
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import (
    BOUND,
    LOOP_NAMES,
    connect,
    implementation,
    in_thread,
    receive_all,
    serving,
)

VARIABLES = ("AIOSOCKETSERVER_LOOP", "AIOSOCKETSERVER_GREENLETS")


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    implementation(request.param, monkeypatch)


class Looks(dict[str, str]):
    """The environment, which keeps in mind what has been asked of it."""

    def __init__(self, variables: dict[str, str]) -> None:
        super().__init__(variables)
        self.seen: list[str] = []

    def __getitem__(self, name: str) -> str:
        self.seen.append(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.seen.append(name)
        return super().get(name, default)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of the environment, searched for and imported by this package."""
    watched = Looks(dict(os.environ))
    monkeypatch.setattr(os, "environ", watched)
    find_spec, import_name = importlib.util.find_spec, builtins.__import__

    def found(name: str, package: str | None = None) -> Any:
        watched.seen.append(name)
        return find_spec(name, package)

    def imported(name: str, importing: Any = None, *arguments: Any, **options: Any) -> Any:
        importer = (importing or {}).get("__name__") or ""
        if importer.startswith("aiosocketserver"):
            watched.seen.append(f"import {name} in {importer}")
        return import_name(name, importing, *arguments, **options)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setattr(builtins, "__import__", imported)
    return watched.seen


class Legacy(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            self.request[1].sendto(b"served", self.client_address)
        else:
            self.request.sendall(b"served")


class Coroutine(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        if isinstance(self.request, tuple):
            await self.request[1].sendto(b"served", self.client_address)
        else:
            await self.request.sendall(b"served")


def request_of(server: Any, folder: Path) -> bytes:
    if server.socket_type == socket.SOCK_STREAM:
        with connect(server.server_address) as client:
            return receive_all(client)
    with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
        client.settimeout(BOUND)
        if server.address_family == socket.AF_UNIX:
            path = folder / f"client-{len(list(folder.iterdir()))}"
            client.bind(str(path))
        client.sendto(b"?", server.server_address)
        return client.recv(100)


@pytest.mark.parametrize("greenlets", ["", "1"])
@pytest.mark.parametrize("handler", [Legacy, Coroutine])
@pytest.mark.parametrize(
    "name",
    [
        "TCPServer",
        "UDPServer",
        "UnixStreamServer",
        "UnixDatagramServer",
        "ThreadingTCPServer",
        "ThreadingUDPServer",
        "ThreadingUnixStreamServer",
        "ThreadingUnixDatagramServer",
        "GreenletTCPServer",
        "GreenletUnixStreamServer",
    ],
)
def test_no_request_looks_at_the_environment(
    name: str,
    handler: Any,
    greenlets: str,
    looks: list[str],
    tmp_path: Path,
) -> None:
    os.environ["AIOSOCKETSERVER_GREENLETS"] = greenlets
    begun = threading.Event()

    class Server(getattr(compat, name)):  # type: ignore[misc]
        def service_actions(self) -> None:
            begun.set()

    address: Any = str(tmp_path / "server") if "Unix" in name else ("127.0.0.1", 0)
    with serving(Server(address, handler), poll_interval=0.01) as server:
        assert begun.wait(BOUND)
        assert "AIOSOCKETSERVER_LOOP" in looks
        assert ("AIOSOCKETSERVER_GREENLETS" in looks) == name.startswith("Threading")
        del looks[:]
        for _ in range(3):
            assert request_of(server, tmp_path) == b"served"
        assert looks == []


def test_handle_request_looks_at_the_environment_once(looks: list[str]) -> None:
    with compat.TCPServer(("127.0.0.1", 0), Coroutine) as server:
        for number in range(3):
            with in_thread(server.handle_request):
                assert request_of(server, Path()) == b"served"
            assert ("AIOSOCKETSERVER_LOOP" in looks) == (number == 0)
            del looks[:]


def test_what_is_set_while_a_server_serves_is_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Named(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(threading.current_thread().name.encode())

    monkeypatch.setenv("AIOSOCKETSERVER_GREENLETS", "0")
    with compat.ThreadingTCPServer(("127.0.0.1", 0), Named) as server:
        for in_greenlets in (False, True):
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            for value in ("1", "0", "1"):
                with connect(server.server_address) as client:
                    answer = receive_all(client)
                assert (b"process_request_thread" not in answer) == in_greenlets
                monkeypatch.setenv("AIOSOCKETSERVER_GREENLETS", value)
            server.shutdown()
            thread.join(BOUND)


@pytest.mark.parametrize("chosen", ["by the class", "by the environment"])
def test_greenlets_that_cannot_be_had_are_told_before_anybody_comes(
    chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    server_class: Any = compat.GreenletTCPServer
    if chosen == "by the environment":
        monkeypatch.setenv("AIOSOCKETSERVER_GREENLETS", "1")
        server_class = compat.ThreadingTCPServer
    told = pytest.raises(ImportError, match=r"pip install aiosocketserver\[greenlet\]")
    with server_class(("127.0.0.1", 0), Legacy) as server, told:
        server.serve_forever()
    # Datagrams need none.
    with serving(compat.ThreadingUDPServer(("127.0.0.1", 0), Legacy)) as server:
        assert request_of(server, Path()) == b"served"

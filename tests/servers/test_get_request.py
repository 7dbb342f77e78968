"""An overridden get_request() of a stream server accepts as it likes, and never stops the loop."""

import asyncio
import contextlib
import socket
import socketserver
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from tests.support import Rescuer, ask, until

KINDS: dict[str, Any] = {
    "tcp": aiosocketserver.TCPServer,
    "unix": aiosocketserver.UnixStreamServer,
    "threading tcp": aiosocketserver.ThreadingTCPServer,
    "threading unix": aiosocketserver.ThreadingUnixStreamServer,
    "forking tcp": aiosocketserver.ForkingTCPServer,
}


class Hello(aiosocketserver.StreamRequestHandler):
    async def handle(self) -> None:
        await self.wfile.write(b"hello")


class LegacyHello(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"hello")


def rescuer(server: aiosocketserver.TCPServer) -> Rescuer:
    """Connects where an accept() waits."""
    address: Any = server.server_address

    def rescue() -> None:
        with contextlib.suppress(OSError), socket.socket(server.address_family) as sock:
            sock.setblocking(False)
            sock.connect(address)

    return Rescuer(rescue)


def make(kind: str, tmp_path: Path, **hooks: Any) -> Any:
    made = type("Overriding", (KINDS[kind],), hooks)
    address: Any = str(tmp_path / "server") if "unix" in kind else ("127.0.0.1", 0)
    return made(address, Hello if " " not in kind else LegacyHello)


def by_accept(self: Any) -> Any:
    return self.socket.accept()


def by_a_duplicate(self: Any) -> Any:
    with self.socket.dup() as duplicate:
        return duplicate.accept()


def with_a_time_out(self: Any) -> Any:
    self.socket.settimeout(60)
    connection, address = self.socket.accept()
    connection.settimeout(None)
    return connection, address


def until_there_is_one(self: Any) -> Any:
    while True:
        with contextlib.suppress(OSError):
            return self.socket.accept()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "get_request", [by_accept, by_a_duplicate, with_a_time_out, until_there_is_one]
)
async def test_it_accepts_as_socketservers_may(
    kind: str, get_request: Callable[[Any], Any], tmp_path: Path
) -> None:
    async with make(kind, tmp_path, get_request=get_request) as server:
        with rescuer(server):
            await server.start_serving()
            for _ in range(2):
                answers = await asyncio.gather(*(ask(server.server_address) for _ in range(3)))
                assert answers == [b"hello"] * 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("set_by", ["the program", "get_request"])
@pytest.mark.parametrize("time_out", [None, 60], ids=["no time-out", "time-out"])
async def test_it_may_find_nobody_there(
    kind: str, time_out: float | None, set_by: str, tmp_path: Path
) -> None:
    """As when another process that shares the socket was faster."""
    stolen: list[socket.socket] = []

    def get_request(self: Any) -> Any:
        if not stolen:
            stolen.append(self.socket.accept()[0])
        if set_by == "get_request":
            self.socket.settimeout(time_out)
        return self.socket.accept()

    async with make(kind, tmp_path, get_request=get_request) as server:
        if set_by == "the program":
            server.socket.settimeout(time_out)
        with rescuer(server):
            await server.start_serving()
            with socket.socket(server.address_family) as client:
                client.connect(server.server_address)
                await until(lambda: bool(stolen))
                assert await ask(server.server_address) == b"hello"
        stolen[0].close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["verify_request", "process_request", "service_actions"])
async def test_no_hook_waits_on_the_listening_socket(kind: str, hook: str, tmp_path: Path) -> None:
    raised = []
    is_answered = False

    def accept(self: Any, *args: Any) -> Any:
        # Before that, service_actions() may come by while the client waits to be accepted.
        if is_answered or hook != "service_actions":
            try:
                self.socket.accept()
            except BlockingIOError as error:
                raised.append(error)
        return getattr(super(type(self), self), hook)(*args)

    async with make(kind, tmp_path, **{hook: accept}) as server:
        with rescuer(server):
            serving = asyncio.create_task(server.serve_forever(poll_interval=0.01))
            assert await ask(server.server_address) == b"hello"
            is_answered = True
            await until(lambda: bool(raised))
            await server.shutdown()
            await serving


@pytest.mark.parametrize("kind", KINDS)
async def test_a_time_out_that_somebody_sets_meanwhile_stops_nothing(
    kind: str, tmp_path: Path
) -> None:
    async with make(kind, tmp_path) as server:
        with rescuer(server):
            await server.start_serving()
            server.socket.settimeout(60)
            assert await ask(server.server_address) == b"hello"
            assert await ask(server.server_address) == b"hello"

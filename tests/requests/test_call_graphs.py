"""What tools that look at tasks see of a request: the coroutines down to its own line."""

import asyncio
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.support import client_of, until

LOCALHOST = ("127.0.0.1", 0)


def chain(task: "asyncio.Task[Any]") -> list[str]:
    """The names of the coroutines of a task, as asyncio's call graphs have them."""
    names = []
    coroutine: Any = task.get_coro()
    while hasattr(coroutine, "cr_await"):
        names.append(coroutine.cr_code.co_qualname.rpartition(".<locals>.")[2])
        coroutine = coroutine.cr_await
    if sys.version_info >= (3, 14):
        graph = asyncio.capture_call_graph(task)
        assert graph is not None
        seen = [entry.frame.f_code.co_qualname for entry in graph.call_stack]
        assert [name.rpartition(".<locals>.")[2] for name in reversed(seen)] == names
    return names


def chains() -> list[list[str]]:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return [names for names in map(chain, others) if "Waits.wait" in names]


class Waits(aiosocketserver.StreamRequestHandler):
    async def handle(self) -> None:
        await self.wait()

    async def wait(self) -> None:
        await self.rfile.readline()


class Plain(aiosocketserver.TCPServer):
    pass


class Returns(aiosocketserver.TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> Any:
        return super().finish_request(request, client_address)


class Processes(aiosocketserver.TCPServer):
    def process_request(self, request: Any, client_address: Any) -> Any:
        return super().process_request(request, client_address)


class Makes(aiosocketserver.TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> Any:
        return self.RequestHandlerClass(request, client_address, self)


async def check(server: Any) -> None:
    async with server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(chains)
            [names] = chains()
            at = names.index("Waits.handle")
            assert names[at - 1 : at + 3] == [
                "BaseRequestHandler._serve",
                "Waits.handle",
                "Waits.wait",
                "SocketReader.readline",
            ]
            await client.send(b"\n")


@pytest.mark.parametrize("kind", [Plain, Returns, Processes, Makes])
async def test_of_a_connection(kind: Any) -> None:
    await check(kind(LOCALHOST, Waits))


@pytest.mark.parametrize(
    "kind",
    [
        aiosocketserver.ThreadingTCPServer,
        aiosocketserver.ForkingTCPServer,
        aiosocketserver.GreenletTCPServer,
    ],
)
async def test_of_a_coroutine_handler_on_a_server_with_a_mix_in(kind: Any) -> None:
    await check(kind(LOCALHOST, Waits))


async def test_of_a_unix_connection(tmp_path: Path) -> None:
    await check(aiosocketserver.UnixStreamServer(str(tmp_path / "s"), Waits))


async def test_of_a_datagram() -> None:
    class Datagram(aiosocketserver.DatagramRequestHandler):
        async def handle(self) -> None:
            await Waits.wait(self)  # type: ignore[arg-type]

        class rfile:  # noqa: N801
            @staticmethod
            async def readline() -> None:
                await held.wait()

        async def setup(self) -> None:
            pass

        async def finish(self) -> None:
            pass

    held = asyncio.Event()
    async with aiosocketserver.UDPServer(LOCALHOST, Datagram) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"?", server.server_address)
            await until(chains)
        [names] = chains()
        assert "Datagram.handle" in names
        held.set()


async def test_of_a_request_of_compat() -> None:
    with compat.TCPServer(LOCALHOST, Waits) as server:
        serving = asyncio.create_task(server.serve_async())
        async with client_of(server.server_address) as client:
            await until(chains)
            [names] = chains()
            assert names[names.index("Waits.handle") - 1] == "BaseRequestHandler._serve"
            await client.send(b"\n")
        await asyncio.to_thread(server.shutdown)
        await serving


async def test_an_overridden_await_is_called() -> None:
    called: list[str] = []

    class Own(Waits):
        def __await__(self) -> Generator[Any, Any, None]:
            called.append("before")
            yield from super().__await__()
            called.append("after")

    async with aiosocketserver.TCPServer(LOCALHOST, Own) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"\n")
            assert await client.receive_all() == b""
    assert called == ["before", "after"]

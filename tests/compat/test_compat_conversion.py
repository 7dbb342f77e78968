"""One program, three servers, whose handlers become coroutines one at a time."""

import asyncio
import contextlib
import functools
import os
import socket
import socketserver
import stat
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import BOUND, LOOP_NAMES, connect, receive_all, serving

# How many of the three handlers have been converted.
STAGES = range(4)


def where() -> str:
    """What a handler can see of where it runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "thread"
    return "loop"


# The program: a command server, a greeter on a Unix socket, and "say" over UDP, which says
# to whoever listens on the command server.


class CommandServer(compat.ThreadingMixIn, compat.TCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: Any, handler: Any) -> None:
        super().__init__(address, handler)
        self.notes: dict[str, str] = {}

    def set(self, name: str, value: str) -> str:
        self.notes[name] = value
        return f"{name} is set in a {where()}\n"


class GreetingServer(compat.ThreadingMixIn, compat.UnixStreamServer):
    greeting = "hello"


class SayServer(compat.ThreadingMixIn, compat.UDPServer):
    command_server: CommandServer


class Command(socketserver.StreamRequestHandler):
    server: CommandServer

    def handle(self) -> None:
        for line in self.rfile:
            match line.decode().split():
                case ["set", name, value]:
                    self.wfile.write(self.server.set(name, value).encode())
                case ["get", name]:
                    self.wfile.write(f"{self.server.notes[name]}\n".encode())
                case _:
                    return


class CoroutineCommand(aiosocketserver.StreamRequestHandler):
    server: Any

    async def handle(self) -> None:
        async for line in self.rfile:
            match line.decode().split():
                case ["set", name, value]:
                    await self.wfile.write(self.server.set(name, value).encode())
                case ["get", name]:
                    await self.wfile.write(f"{self.server.notes[name]}\n".encode())
                case _:
                    return


class Greet(socketserver.BaseRequestHandler):
    server: Any

    def handle(self) -> None:
        while name := self.request.recv(100):
            greeting = f"{self.server.greeting} {name.decode()} from a {where()}"
            self.request.sendall(greeting.encode())


class CoroutineGreet(aiosocketserver.BaseRequestHandler):
    server: Any

    async def handle(self) -> None:
        while name := await self.request.recv(100):
            greeting = f"{self.server.greeting} {name.decode()} from a {where()}"
            await self.request.sendall(greeting.encode())


class Say(socketserver.DatagramRequestHandler):
    server: Any

    def handle(self) -> None:
        self.server.command_server.notes["said"] = self.rfile.read().decode()
        self.wfile.write(f"said in a {where()}".encode())


class CoroutineSay(aiosocketserver.DatagramRequestHandler):
    server: Any

    async def handle(self) -> None:
        self.server.command_server.notes["said"] = self.rfile.read().decode()
        self.wfile.write(f"said in a {where()}".encode())


class Program:
    def __init__(self, folder: Path, stage: int) -> None:
        self.kinds = ["loop"] * stage + ["thread"] * (3 - stage)
        handlers = [
            coroutine if kind == "loop" else legacy
            for kind, legacy, coroutine in zip(
                self.kinds,
                (Command, Greet, Say),
                (CoroutineCommand, CoroutineGreet, CoroutineSay),
                strict=True,
            )
        ]
        self.command = CommandServer(("127.0.0.1", 0), handlers[0])
        self.greeting = GreetingServer(str(folder / "s"), handlers[1])
        self.say = SayServer(("127.0.0.1", 0), handlers[2])
        self.say.command_server = self.command
        self.servers: list[Any] = [self.command, self.greeting, self.say]

    def talk(self) -> None:
        """Clients of all three servers, several of each, in conversation at the same time."""
        command, greeting, say = self.kinds
        with contextlib.ExitStack() as stack:
            commanders = [
                stack.enter_context(connect(self.command.server_address)) for _ in range(3)
            ]
            greeted = [stack.enter_context(connect(self.greeting.server_address)) for _ in range(3)]
            speaker = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            speaker.settimeout(BOUND)
            for turn in range(3):
                for number, client in enumerate(commanders):
                    client.sendall(f"set n{number} {turn}\n".encode())
                for client in greeted:
                    client.sendall(b"you")
                speaker.sendto(f"word{turn}".encode(), self.say.server_address)
                assert speaker.recv(100) == f"said in a {say}".encode()
                for number, client in enumerate(commanders):
                    assert client.recv(100) == f"n{number} is set in a {command}\n".encode()
                for client in greeted:
                    assert client.recv(100) == f"hello you from a {greeting}".encode()
                commanders[turn].sendall(b"get said\n")
                assert commanders[turn].recv(100) == f"word{turn}\n".encode()
                assert self.command.notes["n0"] == str(turn)


@pytest.mark.parametrize("loop_name", LOOP_NAMES)
@pytest.mark.parametrize("stage", STAGES)
def test_all_clients_are_served_at_every_stage_with_a_thread_for_each_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, loop_name: str
) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", loop_name)
    program = Program(tmp_path, stage)
    with contextlib.ExitStack() as stack:
        for server in program.servers:
            stack.enter_context(serving(server))
        program.talk()


@pytest.mark.parametrize("stage", STAGES)
async def test_all_clients_are_served_at_every_stage_on_one_loop(
    tmp_path: Path, stage: int
) -> None:
    program = Program(tmp_path, stage)
    a, b, c = program.servers
    together = asyncio.gather(a.serve_async(), b.serve_async(), c.serve_async())
    await asyncio.to_thread(program.talk)
    for server in program.servers:
        await asyncio.to_thread(server.shutdown)
    await together
    for server in program.servers:
        server.server_close()


async def test_cancelling_what_serves_on_one_loop_ends_all_of_them(tmp_path: Path) -> None:
    program = Program(tmp_path, 2)
    a, b, c = program.servers
    together = asyncio.gather(a.serve_async(), b.serve_async(), c.serve_async())
    await asyncio.to_thread(program.talk)
    together.cancel()
    with pytest.raises(asyncio.CancelledError):
        await together
    # Ended, all of them: socketserver's own event says so.
    for server in program.servers:
        assert server._BaseServer__is_shut_down.is_set()
        server.server_close()


async def test_a_server_on_the_loop_is_served_beside_one_of_the_core() -> None:
    class Upper(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(line.upper())

    def talk(addresses: list[Any]) -> list[bytes]:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(connect(address)) for address in addresses]
            for client in clients:
                client.sendall(b"line\n")
            return [client.recv(100) for client in clients]

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Upper) as core:
        await core.start_serving()
        with compat.TCPServer(("127.0.0.1", 0), Upper) as server:
            ending = asyncio.create_task(server.serve_async())
            addresses = [core.server_address, server.server_address]
            assert await asyncio.to_thread(talk, addresses) == [b"LINE\n", b"LINE\n"]
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending


def test_a_handler_is_converted_between_two_requests(tmp_path: Path) -> None:
    with (
        serving(GreetingServer(str(tmp_path / "s"), Greet)) as server,
        connect(server.server_address) as before,
    ):
        before.sendall(b"first")
        assert before.recv(100) == b"hello first from a thread"
        server.RequestHandlerClass = functools.partial(CoroutineGreet)
        with connect(server.server_address) as after:
            after.sendall(b"second")
            assert after.recv(100) == b"hello second from a loop"
            before.sendall(b"again")
            assert before.recv(100) == b"hello again from a thread"
        server.RequestHandlerClass = Greet
        with connect(server.server_address) as last:
            last.sendall(b"third")
            assert last.recv(100) == b"hello third from a thread"


# A program with one more server, which forks.


def peers_of_all_sockets() -> list[str]:
    """To whom the sockets are connected that this process has open."""
    peers = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                peers.append(repr(copy.getpeername()))
        except OSError:
            continue  # not connected, or what has listed the directory
    return peers


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_children_do_not_keep_coroutine_connections_open() -> None:
    class TellPeers(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall("\n".join(peers_of_all_sockets()).encode())

    class Coroutine(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"on the loop\n")
            await self.rfile.readline()

    class Forking(compat.ForkingMixIn, compat.TCPServer):
        pass

    with (
        serving(compat.TCPServer(("127.0.0.1", 0), Coroutine)) as server,
        connect(server.server_address) as client,
    ):
        assert client.recv(100) == b"on the loop\n"
        assert repr(client.getsockname()) in peers_of_all_sockets()
        forking = Forking(("127.0.0.1", 0), TellPeers)
        with serving(forking), connect(forking.server_address) as child_client:
            peers = receive_all(child_client).decode().split("\n")
            assert repr(child_client.getsockname()) in peers
            assert repr(client.getsockname()) not in peers
        client.sendall(b"\n")
        assert client.recv(100) == b""

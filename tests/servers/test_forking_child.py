"""What a forked child lets go of, and what it leaves alone: the loop, signals, sockets."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any

import pytest

import aiosocketserver
from tests.forking_support import (
    all_reaped,
    ask,
    client_of,
    exists,
    forking_server,
    held_server,
    pid_from,
)
from tests.support import Peer


async def test_signal_ends_the_child_and_does_nothing_in_the_parent() -> None:
    received = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, received.set)
    try:
        async with held_server() as server:
            await server.start_serving()
            async with client_of(server.server_address) as client:
                os.kill(await pid_from(client), signal.SIGTERM)
                assert await client.receive_all() == b""
            await all_reaped(server)
            for _ in range(5):
                await asyncio.sleep(0)
            assert not received.is_set()
            # And the parent has its handler still.
            os.kill(os.getpid(), signal.SIGTERM)
            await received.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_a_childs_first_sigint_is_left_to_the_parent_that_handles_it() -> None:
    def tell(self: Any) -> object:
        signal.raise_signal(signal.SIGINT)
        # A second one would end it.
        return signal.getsignal(signal.SIGINT) is signal.SIG_DFL

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, int)
    try:
        async with forking_server(tell) as server:
            await server.start_serving()
            assert await ask(server.server_address) == b"True"
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    assert server.statistics.handlers_failed == 0


async def test_child_has_the_default_signal_handlers_and_no_blocked_signal() -> None:
    def tell(self: Any) -> object:
        handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        wakeup = signal.set_wakeup_fd(-1)
        expected = [signal.SIG_DFL, signal.SIG_IGN]
        return handlers == expected, blocked, wakeup

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, int)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # not the loop's
    try:
        async with forking_server(tell) as server:
            await server.start_serving()
            assert await ask(server.server_address) == b"(True, set(), -1)"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    finally:
        signal.signal(signal.SIGHUP, before)
        loop.remove_signal_handler(signal.SIGTERM)


class Line(aiosocketserver.StreamRequestHandler):
    """Echoes lines on the loop; an empty one ends the connection."""

    async def handle(self) -> None:
        async for line in self.rfile:
            if line == b"\n":
                return
            await self.wfile.write(line)


async def test_child_holds_neither_listeners_nor_other_connections() -> None:
    """What the parent closes is closed, though a child lives on; and its loop is untouched."""
    loop_server = aiosocketserver.TCPServer(("127.0.0.1", 0), Line, linger_timeout=0)
    async with held_server() as server, loop_server:
        await server.start_serving()
        await loop_server.start_serving()
        async with (
            client_of(loop_server.server_address) as closed,
            client_of(loop_server.server_address) as open_one,
            client_of(server.server_address) as first,
            client_of(server.server_address) as second,
        ):
            for client in (closed, open_one):
                await client.send(b"x\n")
                assert await client.receive(2) == b"x\n"
            pids = [await pid_from(first), await pid_from(second)]
            await closed.send(b"\n")
            assert await closed.receive_all() == b""
            await first.send(b"\n")
            assert await first.receive_all() == b""
            await open_one.send(b"y\n")
            assert await open_one.receive(2) == b"y\n"
            await open_one.send(b"\n")
            assert await open_one.receive_all() == b""
            await loop_server.shutdown()
            loop_server.server_close()
            with pytest.raises(ConnectionRefusedError):
                await ask(loop_server.server_address)
            assert pids[1] in server.active_children
            assert exists(pids[1])
            await second.send(b"\n")
            assert await second.receive_all() == b""


async def send_for_ever(client: Peer) -> None:
    while True:
        await client.send(b"x")
        await asyncio.sleep(0)


async def test_child_holds_no_connection_that_lingers() -> None:
    class Rude(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"rude\n")

    rude_server = aiosocketserver.TCPServer(("127.0.0.1", 0), Rude, linger_timeout=0.2)
    async with held_server() as server, rude_server:
        await server.start_serving()
        await rude_server.start_serving()
        async with client_of(rude_server.server_address) as lingering:
            assert await lingering.receive_all() == b"rude\n"
            async with client_of(server.server_address) as client:
                await pid_from(client)
                await rude_server.shutdown()
                # Were it open in the child, the kernel would take this for ever.
                with pytest.raises((ConnectionResetError, BrokenPipeError)):
                    await send_for_ever(lingering)


async def test_child_may_run_a_loop_of_its_own() -> None:
    async def compute() -> str:
        await asyncio.sleep(0.001)
        return "computed"

    async with forking_server(lambda self: asyncio.run(compute())) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"computed"


async def test_run_on_loop_in_a_child_is_an_error() -> None:
    def tell(self: Any) -> str:
        try:
            return str(self.server.run_on_loop(asyncio.sleep, 0))
        except RuntimeError as error:
            return str(error)

    async with forking_server(tell) as server:
        await server.start_serving()
        assert b"loop" in await ask(server.server_address)


# --- whole programs ---


def run_program(source: str) -> str:
    program = textwrap.dedent(source)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


PROGRAM = """
    import asyncio, os, signal, socketserver, sys
    import aiosocketserver

    address = "127.0.0.1", 0

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            print("child")
            self.wfile.write(b"served")

    async def ask(address):
        reader, writer = await asyncio.open_connection(*address)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode()
"""


def test_what_is_printed_is_printed_once() -> None:
    program = """
    async def main():
        print("before")
        async with aiosocketserver.ForkingTCPServer(address, Handler, linger_timeout=0) as server:
            await server.start_serving()
            print(await ask(server.server_address))
        print("after")

    asyncio.run(main())
    """
    assert run_program(PROGRAM + program).split() == ["before", "child", "served", "after"]


def test_signal_that_comes_before_the_child_has_left_the_loop_is_the_childs() -> None:
    program = """
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))

    async def main():
        received = []
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, received.append, 1)
        async with aiosocketserver.ForkingTCPServer(address, Handler, linger_timeout=0) as server:
            await server.start_serving()
            print([await ask(server.server_address)], received)

    import logging
    logging.disable()
    asyncio.run(main())
    """
    assert run_program(PROGRAM + program) == "[''] []\n"


def test_loop_in_another_thread_may_fork() -> None:
    program = """
    import threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)

    async def main():
        async with aiosocketserver.ForkingTCPServer(address, Handler, linger_timeout=0) as server:
            await server.start_serving()
            print(await ask(server.server_address))

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
    """
    assert run_program(PROGRAM + program).split() == ["child", "served"]


async def test_a_server_that_could_not_be_made_keeps_no_child_from_its_work() -> None:
    made: list[object] = []

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            pass

    class Half(aiosocketserver.TCPServer):
        def __init__(self, *args: Any, **options: Any) -> None:
            made.append(self)
            super().__init__(*args, **options)

    with pytest.raises(ValueError, match="tls_reload_interval needs an ssl_context"):
        Half(("127.0.0.1", 0), Handler, tls_reload_interval=1)
    assert made
    async with forking_server(lambda _: "served") as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"served"

"""How serving ends on compat while coroutine handlers are at work, and what is left then."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.compat_support import (
    BOUND,
    LOOP_NAMES,
    ask,
    connect,
    in_thread,
    receive_all,
    served,
    serving,
)
from tests.support import until

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(autouse=True, params=[*LOOP_NAMES, "asyncio, debug", "uvloop, debug"])
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, debug = request.param.partition(", ")
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", name)
    monkeypatch.setenv("PYTHONASYNCIODEBUG", debug)


class Server(compat.TCPServer):
    # Some clients here stay until they have seen what they wait for.
    linger_timeout = 0.05


class Conversation(aiosocketserver.StreamRequestHandler):
    """Answers each line, and says how it ends."""

    server: Any

    async def handle(self) -> None:
        await self.wfile.write(b"begin\n")
        async for line in self.rfile:
            if line == b"end\n":
                break
            await self.server_says(line)

    async def server_says(self, line: bytes) -> None:
        await self.wfile.write(line)

    async def finish(self) -> None:
        await self.wfile.write(b"finish\n")
        await super().finish()


def begun(address: Any) -> socket.socket:
    """A client whose handler is at work."""
    client = connect(address)
    assert client.recv(6, socket.MSG_WAITALL) == b"begin\n"
    return client


# Exits


@pytest.mark.parametrize("exit_", [SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("way", ["serve_forever", "serve_async"])
def test_a_handlers_exit_leaves_serving_after_the_others_have_ended(
    exit_: BaseException, way: str
) -> None:
    class OwnServer(Server):
        errors = 0

        def handle_error(self, request: Any, client_address: Any) -> None:
            self.errors += 1

    class Handler(Conversation):
        async def server_says(self, line: bytes) -> None:
            if line == b"exit\n":
                raise exit_
            await super().server_says(line)

    raised: list[BaseException] = []

    def serve() -> None:
        try:
            if way == "serve_async":
                asyncio.run(server.serve_async())
            else:
                server.serve_forever()
        except BaseException as error:  # noqa: BLE001 - compared below
            raised.append(error)

    with (
        OwnServer(LOCALHOST, Handler) as server,
        in_thread(serve),
        begun(server.server_address) as one,
        begun(server.server_address) as other,
    ):
        one.sendall(b"exit\n")
        assert receive_all(one) == b"finish\n"
        other.sendall(b"still\nend\n")
        assert receive_all(other) == b"still\nfinish\n"
    assert raised == [exit_]
    assert server.errors == 0


def test_an_exit_leaves_handle_request_with_the_request_shut_down_once() -> None:
    class OwnServer(Server):
        shut_down = 0

        def shutdown_request(self, request: Any) -> None:
            self.shut_down += 1
            super().shutdown_request(request)

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"answer")
            raise SystemExit(3)

    with OwnServer(LOCALHOST, Handler) as made, connect(made.server_address) as client:
        server: Any = made
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(SystemExit):
            server.handle_request()
        assert receive_all(client) == b"answer"
        assert server.shut_down == 1
        # And the next one has nothing of it.
        server.RequestHandlerClass = Conversation
        with connect(server.server_address) as client, in_thread(server.handle_request):
            client.sendall(b"end\n")
            assert receive_all(client) == b"begin\nfinish\n"


# asyncio's loop waits in the first, and uvloop, which is not Python, for the others.
WAITING = ("select", "serve_forever", "serve_coroutine")


def is_waiting() -> bool:
    """Whether the main thread's loop waits for events.

    In the middle of a loop's own work an interrupt does any harm, and right before its
    system call Python sees it only when that returns.
    """
    main = threading.main_thread()
    frame = sys._current_frames()[main.ident or 0]
    state = Path(f"/proc/self/task/{main.native_id}/stat").read_text().rpartition(") ")[2]
    return frame.f_code.co_name in WAITING and state.startswith("S")


def interrupted(serve: Callable[[], object], clients: list[socket.socket]) -> list[bytes]:
    """Have Ctrl-C come while `serve` serves the clients; what each of them hears after it."""
    heard: list[bytes] = []

    def interrupt() -> None:
        for client in clients:
            assert client.recv(6, socket.MSG_WAITALL) == b"begin\n"
        main = threading.main_thread().ident
        assert main is not None
        while not is_waiting():
            time.sleep(0)
        signal.pthread_kill(main, signal.SIGINT)
        heard.extend(receive_all(client) for client in clients)

    with in_thread(interrupt), pytest.raises(KeyboardInterrupt):
        serve()
    return heard


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs /proc")
@pytest.mark.parametrize("way", ["serve_forever", "handle_request", "serve_async"])
def test_ctrl_c_ends_handlers_in_progress_and_is_raised(way: str) -> None:
    class OwnServer(Server):
        shutdown_timeout = 0.05

    with OwnServer(LOCALHOST, Conversation) as server, contextlib.ExitStack() as stack:
        count = 1 if way == "handle_request" else 3
        clients = [stack.enter_context(connect(server.server_address)) for _ in range(count)]

        def serve() -> None:
            if way == "serve_async":
                asyncio.run(server.serve_async())
            else:
                getattr(server, way)()

        assert interrupted(serve, clients) == [b"finish\n"] * count
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        # socketserver's shutdown() returns after it, and does not wait for ever.
        server.shutdown()


# shutdown()


@pytest.mark.parametrize("way", ["serve_forever", "serve_async"])
def test_shutdown_waits_for_handlers_in_progress(way: str) -> None:
    class Handler(Conversation):
        async def server_says(self, line: bytes) -> None:
            (serving,) = self.server._aiosocketserver.servings
            await until(serving._ended.done)
            # Time enough to be cancelled in.
            await asyncio.sleep(0.02)
            await super().server_says(line)

    with (
        Server(LOCALHOST, Handler) as server,
        served(server, way),
        begun(server.server_address) as client,
    ):
        client.sendall(b"line\n")
        with in_thread(server.shutdown):
            assert client.recv(5, socket.MSG_WAITALL) == b"line\n"
            assert not server._BaseServer__is_shut_down.is_set()
            client.sendall(b"end\n")
            assert receive_all(client) == b"finish\n"
        assert server._BaseServer__is_shut_down.is_set()


@pytest.mark.parametrize("way", ["serve_forever", "serve_async"])
def test_shutdown_cancels_handlers_after_shutdown_timeout(way: str) -> None:
    with (
        Server(LOCALHOST, Conversation) as server,
        served(server, way),
        begun(server.server_address) as client,
    ):
        # As it is when serving ends, and not when it began.
        server.shutdown_timeout = 0
        server.shutdown()
        assert receive_all(client) == b"finish\n"


def test_a_handler_that_goes_on_when_cancelled_loses_its_connection() -> None:
    class Handler(Conversation):
        async def handle(self) -> None:
            try:
                await super().handle()
            except asyncio.CancelledError:
                await super().handle()

    class OwnServer(Server):
        shutdown_timeout = 0

    with (
        OwnServer(LOCALHOST, Handler) as server,
        served(server, "serve_forever"),
        begun(server.server_address) as client,
    ):
        server.shutdown()
        # It was asked before, and is now reset.
        with pytest.raises(ConnectionResetError):
            receive_all(client)


def test_a_server_serves_again_after_shutdown() -> None:
    with Server(LOCALHOST, Conversation) as server:
        for way in ("serve_forever", "serve_async", "serve_forever"):
            with served(server, way):
                assert ask(server.server_address, b"end\n") == b"begin\nfinish\n"


class Ending(aiosocketserver.StreamRequestHandler):
    """Ends the server, and says what came of it."""

    server: Any

    async def handle(self) -> None:
        try:
            await self.end()
        except RuntimeError as error:
            await self.wfile.write(str(error).encode())
        except asyncio.CancelledError:
            await self.wfile.write(b"cancelled")
            raise
        else:
            await self.wfile.write(b"done")

    async def end(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("way", ["serve_forever", "serve_async"])
def test_shutdown_in_a_handler_is_an_error_that_says_what_works(way: str) -> None:
    class Direct(Ending):
        async def end(self) -> None:
            self.server.shutdown()

    class AsAdvised(Ending):
        async def end(self) -> None:
            threading.Thread(target=self.server.shutdown).start()

    with Server(LOCALHOST, Direct) as made, served(made, way):
        server: Any = made
        told = ask(server.server_address).decode()
        assert "threading.Thread(target=server.shutdown).start()" in told
        server.RequestHandlerClass = AsAdvised
        assert ask(server.server_address) == b"done"
        assert server._BaseServer__is_shut_down.wait(BOUND)


@pytest.mark.parametrize("where", ["to_thread", "executor", "run_in_thread"])
def test_a_handler_that_waits_for_shutdown_is_cancelled_and_the_server_ends(where: str) -> None:
    class Waiting(Ending):
        async def end(self) -> None:
            if where == "to_thread":
                await asyncio.to_thread(self.server.shutdown)
            elif where == "executor":
                await asyncio.get_running_loop().run_in_executor(None, self.server.shutdown)
            else:
                await self.server.run_in_thread(self.server.shutdown)

    class OwnServer(Server):
        shutdown_timeout = 0.05

    with OwnServer(LOCALHOST, Waiting) as server, in_thread(server.serve_forever):
        assert ask(server.server_address) == b"cancelled"


@pytest.mark.parametrize("way", ["serve_forever", "serve_async"])
def test_a_handler_may_close_its_server_and_use_the_descriptor_again(way: str) -> None:
    class Closing(Ending):
        async def end(self) -> None:
            number = self.server.fileno()
            self.server.server_close()
            with contextlib.ExitStack() as stack:
                pair = [stack.enter_context(each) for each in socket.socketpair()]
                # The lowest number that is free, which is the server's.
                pair.sort(key=lambda each: each.fileno() != number)
                loop = asyncio.get_running_loop()
                arrived = asyncio.Event()
                loop.add_reader(pair[0], arrived.set)
                pair[1].send(b"data")
                await asyncio.wait_for(arrived.wait(), 5)
                loop.remove_reader(pair[0])

    with Server(LOCALHOST, Closing) as server, served(server, way):
        assert ask(server.server_address) == b"done"
        assert server._BaseServer__is_shut_down.wait(BOUND)


# Answers and what is left


def test_an_answer_is_not_lost_when_the_client_has_sent_more_than_was_read() -> None:
    answer = bytes(range(256)) * 1024

    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.rfile.readline()
            await self.wfile.write(answer)

    with serving(compat.TCPServer(LOCALHOST, Handler)) as server:
        assert ask(server.server_address, b"line\n" + bytes(100_000)) == answer


def loop_of_a_new_kind(loops: list[asyncio.AbstractEventLoop]) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    loops.append(loop)
    return loop


def test_nothing_is_left_on_a_loop_even_of_eager_tasks() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    class OwnServer(Server):
        shutdown_timeout = 0.05

        @staticmethod
        def loop_factory() -> asyncio.AbstractEventLoop:
            return loop_of_a_new_kind(loops)

    class Handler(Conversation):
        async def setup(self) -> None:
            await super().setup()
            # One that the handler never ends.
            self.task = asyncio.create_task(asyncio.Event().wait())

    with (
        OwnServer(LOCALHOST, Handler) as server,
        in_thread(server.serve_forever),
        begun(server.server_address) as idle,
    ):
        assert ask(server.server_address, b"end\n") == b"begin\nfinish\n"
        assert ask(server.server_address, b"line\nend\n") == b"begin\nline\nfinish\n"
        server.shutdown()
        assert receive_all(idle) == b"finish\n"
    with OwnServer(LOCALHOST, Handler) as server, in_thread(server.handle_request):
        assert ask(server.server_address, b"end\n") == b"begin\nfinish\n"
    assert len(loops) == 2
    assert all(loop.is_closed() for loop in loops)
    assert not [task for loop in loops for task in asyncio.all_tasks(loop)]

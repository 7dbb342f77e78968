"""Legacy handlers in greenlets: socketserver's own classes on the Greenlet servers."""

import asyncio
import contextlib
import http.server
import os
import resource
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from tests.greenlet_support import greenlet_server, handling
from tests.support import ask, client_of, until, until_later
from tests.threading_support import Echo, Held, telling
from tests.tls_support import Certificates, tls_client

RESET = struct.pack("ii", 1, 0)


# --- handlers made for socketserver ---


async def test_standard_librarys_handler_runs_unchanged_on_the_loops_thread() -> None:
    threads = []

    class Upper(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            threads.append(threading.current_thread())
            assert isinstance(self.request, socket.socket)
            for line in self.rfile:
                self.wfile.write(line.upper())

    async with greenlet_server(Upper) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"one\ntwo\n") == b"ONE\nTWO\n"
    assert threads == [threading.current_thread()]


async def test_unix_stream_server(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with aiosocketserver.GreenletUnixStreamServer(path, Echo) as server:
        await server.start_serving()
        assert await ask(path, b"hello") == b"hello"


async def test_http_server_of_the_standard_library_serves_a_file_to_curl(
    tmp_path: Path, require_program: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    curl = require_program("curl")
    content = os.urandom(300_000)
    (tmp_path / "file.bin").write_bytes(content)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    async with greenlet_server(handler) as server:
        await server.start_serving()
        host, port = server.server_address
        process = await asyncio.create_subprocess_exec(
            *(curl, "-sS", "--fail", "--noproxy", "*", f"http://{host}:{port}/file.bin"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert (process.returncode, output) == (0, content)
    assert '"GET /file.bin HTTP/1.1" 200' in capfd.readouterr().err


async def test_a_thousand_clients_are_served_at_once_by_one_thread() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    threads = threading.active_count()
    try:
        async with greenlet_server(Held) as server, contextlib.AsyncExitStack() as stack:
            await server.start_serving()
            clients = [
                await stack.enter_async_context(client_of(server.server_address))
                for _ in range(1000)
            ]
            for client in clients:
                assert await client.receive(6) == b"begun\n"
            assert server.statistics.active == 1000
            # One looks that nobody holds the loop.
            assert threading.active_count() == threads + 1
            for client in reversed(clients):
                await client.send(b"end\n")
                assert await client.receive_all() == b""
        assert server.statistics.finished == 1000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_coroutine_handler_runs_as_ever() -> None:
    class OnLoop(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            assert isinstance(self.request, aiosocketserver.StreamSocket)
            await self.wfile.write(await self.rfile.read())

    async with greenlet_server(OnLoop) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"hello") == b"hello"


async def test_no_loop_is_running_in_a_handler_which_may_run_one_of_its_own() -> None:
    async def answer() -> str:
        await asyncio.sleep(0)
        return "from a loop of its own"

    def tell() -> str:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return asyncio.run(answer())

    async with greenlet_server(telling(tell)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"from a loop of its own"
        asyncio.get_running_loop()


async def test_hooks_are_called_in_socketservers_order_and_may_be_overridden() -> None:
    called: list[str] = []

    class Traced(aiosocketserver.GreenletTCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            called.append("verify_request")
            assert request.getpeername() == client_address
            return True

        def process_request(self, request: Any, client_address: Any) -> Any:
            called.append("process_request")
            return super().process_request(request, client_address)

        def process_request_greenlet(self, request: Any, client_address: Any) -> None:
            called.append("process_request_greenlet")
            super().process_request_greenlet(request, client_address)

        def finish_request(self, request: Any, client_address: Any) -> None:
            called.append("finish_request")
            # A hook may wait for the client, too.
            request.sendall(request.recv(3))
            super().finish_request(request, client_address)

        def shutdown_request(self, request: Any) -> None:
            called.append("shutdown_request")
            super().shutdown_request(request)

        def close_request(self, request: Any) -> None:
            called.append("close_request")
            super().close_request(request)

    async with Traced(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"abcdef") == b"abcdef"
    assert called == [
        "verify_request",
        "process_request",
        "process_request_greenlet",
        "finish_request",
        "shutdown_request",
        "close_request",
    ]


async def test_handle_request_serves_one() -> None:
    async with greenlet_server(Echo) as server:
        serving = asyncio.create_task(server.handle_request())
        assert await ask(server.server_address, b"hello") == b"hello"
        await serving


async def test_each_request_has_a_context_of_its_own() -> None:
    numbers = []

    def tell() -> object:
        numbers.append(aiosocketserver.request_id())
        return ""

    async with greenlet_server(telling(tell)) as server:
        await server.start_serving()
        for _ in range(3):
            await ask(server.server_address)
    assert len(set(numbers)) == 3
    assert aiosocketserver.request_id() is None


async def test_bytes_are_counted_once() -> None:
    async with (
        greenlet_server(Echo) as server,
        client_of(server.server_address) as client,
    ):
        # What is there when the connection is accepted, it reads before it waits.
        await client.send(b"hello")
        await server.start_serving()
        await until(lambda: server.statistics.bytes_received)
        client.finish()
        assert await client.receive_all() == b"hello"
        await until(lambda: server.statistics.finished == 1)
    assert (server.statistics.bytes_received, server.statistics.bytes_sent) == (5, 5)


# --- what goes wrong ---


async def test_a_handlers_error_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("of the handler")

    async with greenlet_server(telling(fail)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    assert server.statistics.handlers_failed == 1
    assert "ValueError: of the handler" in caplog.text


async def test_a_client_that_resets_the_connection_has_vanished(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with greenlet_server(Held) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await until(lambda: server.statistics.finished == 1)
    assert server.statistics.clients_vanished == 1
    assert server.statistics.handlers_failed == 0
    assert "Traceback" not in caplog.text


async def test_system_exit_ends_only_its_request() -> None:
    async with greenlet_server(telling(sys.exit)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert await ask(server.server_address) == b""
    assert server.statistics.finished == 2


async def test_a_hook_that_fails_ends_only_its_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(aiosocketserver.GreenletTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            raise LookupError("of handle_error")

    def fail() -> None:
        raise ValueError("of the handler")

    async with Broken(("127.0.0.1", 0), telling(fail)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert await ask(server.server_address) == b""
    assert server.statistics.finished == 2
    assert "LookupError: of handle_error" in caplog.text


async def test_a_cancellation_that_nobody_asked_for_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def cancel() -> None:
        raise asyncio.CancelledError

    async with greenlet_server(telling(cancel)) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    assert "CancelledError" in caplog.text


async def test_keyboard_interrupt_ends_the_server() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    async with greenlet_server(telling(interrupt)) as server:
        client = asyncio.create_task(ask(server.server_address))
        with pytest.raises(KeyboardInterrupt):
            await server.serve_forever()
        assert await client == b""


async def test_a_plain_handle_that_returns_a_coroutine_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        pass

    class Forgets(socketserver.BaseRequestHandler):
        def handle(self) -> Any:
            return work()

    async with greenlet_server(Forgets) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
    assert "handle() is a plain function that returned an awaitable" in caplog.text


async def test_the_socket_is_the_handlers_alone() -> None:
    errors = []

    def handle(handler: Any) -> None:
        def receive() -> None:
            try:
                handler.request.recv(1)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=receive)
        thread.start()
        thread.join()

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
    [error] = errors
    assert "only the handler itself can" in error


def test_datagrams_are_refused() -> None:
    class Server(aiosocketserver.GreenletMixIn, aiosocketserver.UDPServer):
        pass

    with pytest.raises(TypeError, match="GreenletMixIn is for stream servers"):
        Server(("127.0.0.1", 0), Echo)


def test_without_greenlet_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['greenlet'] = None\n"
        "import socketserver, aiosocketserver\n"
        "class H(socketserver.BaseRequestHandler):\n    def handle(self): pass\n"
        "try: aiosocketserver.GreenletTCPServer(('127.0.0.1', 0), H)\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install aiosocketserver[greenlet]" in done.stdout


# --- the end ---


async def test_a_handler_is_cut_where_it_waits() -> None:
    seen: list[BaseException] = []

    class Cut(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"begun\n")
            try:
                self.rfile.readline()
            except BaseException as error:
                seen.append(error)
                # It may still say something.
                self.wfile.write(b"goodbye\n")
                raise

    async with greenlet_server(Cut) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            report = await server.shutdown(0)
            assert (report.finished, report.cut, report.abandoned) == (0, 1, 0)
            assert await client.receive_all() == b"goodbye\n"
    assert [type(error) for error in seen] == [asyncio.CancelledError]
    assert server.statistics.handlers_failed == 0


async def test_a_handler_that_swallows_everything_is_cut_all_the_same() -> None:
    class Stubborn(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"begun\n")
            with contextlib.suppress(asyncio.CancelledError):
                self.rfile.readline()
            self.rfile.readline()

    async with greenlet_server(Stubborn) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            assert await client.receive(6) == b"begun\n"
            report = await server.shutdown(0)
    assert (report.cut, report.abandoned) == (1, 0)


async def test_idle_clients_do_not_hold_up_a_shutdown_that_is_told() -> None:
    class Lines(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.request.end_when_draining()
            for line in self.rfile:
                self.wfile.write(line)

    async with greenlet_server(Lines) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"one\n")
            assert await client.receive(4) == b"one\n"
            report = await server.shutdown(60)
            assert await client.receive_all() == b""
    assert (report.finished, report.cut) == (1, 0)


@pytest.mark.parametrize("option", ["request_timeout", "idle_timeout"])
async def test_time_outs_strike_where_it_waits(option: str) -> None:
    seen: list[BaseException] = []

    class Waits(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                self.rfile.readline()
            except TimeoutError as error:
                seen.append(error)
                raise

    async with greenlet_server(Waits, **{option: 0.05}) as server:
        await server.start_serving()
        assert await ask_and_wait(server.server_address) == b""
        await until_later(lambda: server.statistics.finished == 1)
    assert [str(error) for error in seen] == [f"timed out: the server's {option} has passed"]
    assert server.statistics.timed_out == {option: 1}
    assert server.statistics.handlers_failed == 0


async def ask_and_wait(address: Any) -> bytes:
    """What a client gets that says nothing and does not leave."""
    async with client_of(address) as client:
        return await client.receive_all()


# --- to the loop and to threads ---


async def test_run_on_loop_awaits_a_coroutine_while_others_go_on() -> None:
    gate = asyncio.Event()

    async def wait(word: str) -> str:
        await gate.wait()
        assert asyncio.current_task()
        return word.upper()

    def handle(handler: Any) -> None:
        handler.request.sendall(handler.server.run_on_loop(wait, "done").encode())
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await until(lambda: server.statistics.active == 1)
            gate.set()
            assert await first.receive_all() == b"DONE"
    assert server.statistics.handlers_failed == 0


async def test_run_on_loop_raises_what_the_coroutine_raised() -> None:
    errors: list[BaseException] = []

    async def fail(error: BaseException) -> None:
        raise error

    def handle(handler: Any) -> None:
        for error in (ValueError("of the coroutine"), asyncio.CancelledError()):
            try:
                handler.server.run_on_loop(fail, error)
            except Exception as raised:  # noqa: BLE001 - looked at below
                errors.append(raised)

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        await ask(server.server_address)
    assert [repr(error) for error in errors] == [
        "ValueError('of the coroutine')",
        "RuntimeError('the coroutine was cancelled before it returned')",
    ]


async def test_a_handler_is_cut_in_run_on_loop() -> None:
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def handle(handler: Any) -> None:
        handler.server.run_on_loop(wait)

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await until(lambda: server.statistics.active == 1)
            report = await server.shutdown(0)
    assert (report.cut, report.abandoned) == (1, 0)
    assert cancelled.is_set()


async def test_a_handler_may_stop_its_server() -> None:
    def handle(handler: Any) -> None:
        handler.server.run_on_loop(handler.server.shutdown)
        handler.request.sendall(b"stopped")

    async with greenlet_server(handling(handle)) as server:
        serving = asyncio.create_task(server.serve_forever())
        assert await ask(server.server_address) == b"stopped"
        await serving


async def test_run_blocking_calls_in_a_thread_while_others_go_on() -> None:
    release = threading.Event()

    def block(word: str) -> tuple[str, bool]:
        assert release.wait(20)
        return word, threading.current_thread() is threading.main_thread()

    def handle(handler: Any) -> None:
        if handler.request.recv(10) == b"block":
            handler.request.sendall(repr(handler.server.run_blocking(block, "done")).encode())
        else:
            handler.request.sendall(b"quick")

    async with greenlet_server(handling(handle)) as server:
        await server.start_serving()
        async with client_of(server.server_address) as first:
            await first.send(b"block")
            await until(lambda: server.statistics.active == 1)
            assert await ask(server.server_address, b"?") == b"quick"
            release.set()
            assert await first.receive_all() == b"('done', False)"


async def test_run_blocking_in_a_handler_that_has_a_thread_calls_there() -> None:
    def handle(handler: Any) -> None:
        thread = handler.server.run_blocking(threading.current_thread)
        assert thread is threading.current_thread()
        handler.request.sendall(b"here")

    server = aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), handling(handle))
    async with server:
        await server.start_serving()
        assert await ask(server.server_address) == b"here"


# --- TLS ---


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


async def test_tls(certificates: Certificates) -> None:
    def handle(handler: Any) -> None:
        assert handler.request.version() == "TLSv1.3"
        assert handler.request.getpeercert() is None
        handler.request.sendall(handler.request.recv(100).upper())

    context = certificates.server_context()
    async with greenlet_server(handling(handle), ssl_context=context) as server:
        await server.start_serving()
        client = certificates.client_context()
        async with tls_client(server.server_address, client) as (reader, writer):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"HELLO"
        # A client that is not one of TLS.
        assert b"HELLO" not in await ask(server.server_address, b"hello")
        await until(lambda: server.statistics.finished == 2)
    assert server.statistics.handshakes_failed == 1
    assert server.statistics.handlers_failed == 0


async def test_a_tls_connection_that_is_cut_ends_as_an_ssl_socket_does(
    certificates: Certificates,
) -> None:
    seen: list[bytes] = []

    def handle(handler: Any) -> None:
        seen.append(handler.request.recv(100))
        seen.append(handler.request.recv(100))

    context = certificates.server_context()
    async with greenlet_server(handling(handle), ssl_context=context) as server:
        await server.start_serving()
        address = server.server_address

        def cut() -> None:
            with socket.create_connection(address, 10) as sock:
                client = certificates.client_context().wrap_socket(
                    sock, server_hostname="127.0.0.1"
                )
                client.sendall(b"hello")
                # Without close_notify.
                with socket.socket(fileno=client.detach()) as plain:
                    plain.setblocking(True)
                    plain.shutdown(socket.SHUT_WR)
                    while plain.recv(1000):
                        pass

        await asyncio.to_thread(cut)
        await until_later(lambda: server.statistics.finished == 1)
    assert seen == [b"hello", b""]

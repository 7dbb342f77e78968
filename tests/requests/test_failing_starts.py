"""Requests whose thread or child cannot be started for now: they wait, as do those after them."""

import asyncio
import logging
import os
import signal
import socket
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.requests import back_off
from aiosocketserver.requests.request_timeout import RequestTimes
from aiosocketserver.sockets.datagram_receiver import DatagramReceiver
from tests.clock_support import Clock
from tests.forking_support import all_reaped, ask, client_of
from tests.shortage_support import (
    NO_KERNEL_MEMORY,
    NO_MEMORY,
    NO_PROCESS,
    NO_THREAD,
    Shortage,
)
from tests.support import until, until_queued

LOCALHOST = ("127.0.0.1", 0)

SHORTAGES = [
    ("start", NO_THREAD),
    ("start", NO_MEMORY),
    ("fork", NO_PROCESS),
    ("fork", NO_KERNEL_MEMORY),
    ("fork", NO_MEMORY),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "FIRST_BACK_OFF", 0.002)
    monkeypatch.setattr(back_off, "LAST_BACK_OFF", 0.01)


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        if isinstance(self.request, tuple):
            data, sock = self.request
            sock.sendto(data, self.client_address)
        else:
            self.request.sendall(self.request.recv(100))


def server_of(what: str, **options: Any) -> Any:
    names = {"start": "ThreadingTCPServer", "fork": "ForkingTCPServer"}
    server_class: Any = getattr(aiosocketserver, names[what])
    # A shutdown would wait for clients to close.
    return server_class(LOCALHOST, Answer, linger_timeout=0, **options)


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("what", "error"), SHORTAGES)
async def test_requests_wait_and_are_served_when_there_is_enough_again(
    what: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with server_of(what) as server:
        await server.start_serving()
        shortage = Shortage(monkeypatch, what, error)
        async with client_of(server.server_address) as first:
            await first.send(b"first")
            await until(lambda: shortage.tries > 3)
            # Nobody else is taken meanwhile.
            async with client_of(server.server_address) as second:
                await second.send(b"second")
                await until_queued(server, 1)
                await until(lambda: shortage.tries > 4)
                statistics = server.statistics
                assert (statistics.accepted, statistics.accept_pauses) == (1, 1)
                shortage.end()
                assert await first.receive(5) == b"first"
                assert await second.receive(6) == b"second"
    assert statistics.accepted == statistics.finished == 2
    assert statistics.handlers_failed == 0
    named = {"start": "a thread", "fork": "a child"}[what]
    (line,) = errors_in(caplog)
    assert line.startswith(f"accepting is paused, and goes on as soon as {named} can be started: ")
    assert line.endswith("; 1 wait")
    # A fork that fails holds back no signals.
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.parametrize("name", ["ThreadingUDPServer", "ThreadingUnixDatagramServer"])
async def test_datagrams_wait(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    is_unix = "Unix" in name
    server_class = getattr(aiosocketserver, name)
    family = socket.AF_UNIX if is_unix else socket.AF_INET
    address: Any = str(tmp_path / "server") if is_unix else LOCALHOST
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        async with server_class(address, Answer) as server:
            await server.start_serving()
            shortage = Shortage(monkeypatch, "start", NO_THREAD)
            client.bind(str(tmp_path / "client") if is_unix else LOCALHOST)
            client.connect(server.server_address)
            client.setblocking(False)
            for number in range(5):
                client.send(b"%d" % number)
            await until(lambda: shortage.tries > 3)
            shortage.end()
            loop = asyncio.get_running_loop()
            answers = {await loop.sock_recv(client, 10) for _ in range(5)}
    assert answers == {b"0", b"1", b"2", b"3", b"4"}
    assert server.statistics.datagrams_dropped == 0
    assert len(errors_in(caplog)) == 1


@pytest.mark.parametrize("what", ["start", "fork"])
async def test_it_is_tried_ever_more_seldom(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_off, "FIRST_BACK_OFF", 0.02)
    monkeypatch.setattr(back_off, "LAST_BACK_OFF", 1.0)
    async with server_of(what) as server:
        await server.start_serving()
        shortage = Shortage(monkeypatch, what, NO_MEMORY)
        async with client_of(server.server_address) as client:
            await client.send(b"hello")
            await asyncio.sleep(0.3)
            # Thousands, where it spins.
            assert 2 <= shortage.tries < 10
            shortage.end()
            assert await client.receive(5) == b"hello"


async def test_a_thread_that_becomes_free_takes_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"begun")
            assert released.wait(10)

    async with aiosocketserver.ThreadingTCPServer(LOCALHOST, Handler) as server:
        await server.start_serving()
        # After which nobody would look in the time of this test.
        monkeypatch.setattr(back_off, "FIRST_BACK_OFF", 1000.0)
        monkeypatch.setattr(back_off, "LAST_BACK_OFF", 1000.0)
        async with client_of(server.server_address) as first:
            assert await first.receive(5) == b"begun"
            shortage = Shortage(monkeypatch, "start", NO_THREAD)
            async with client_of(server.server_address) as second:
                await until(lambda: shortage.tries == 2)
                released.set()
                assert await second.receive(5) == b"begun"


async def test_after_a_child_that_ends_another_one_is_started_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with server_of("fork") as server:
        await server.start_serving()
        monkeypatch.setattr(back_off, "FIRST_BACK_OFF", 1000.0)
        monkeypatch.setattr(back_off, "LAST_BACK_OFF", 1000.0)
        async with client_of(server.server_address) as first:
            await until(lambda: server.active_children)
            shortage = Shortage(monkeypatch, "fork", NO_PROCESS)
            async with client_of(server.server_address) as second:
                await second.send(b"second")
                await until(lambda: shortage.tries == 2)
                shortage.end()
                await first.send(b"first")
                assert await second.receive(6) == b"second"


@pytest.mark.parametrize("what", ["start", "fork"])
async def test_a_shutdown_cuts_those_that_wait(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with server_of(what) as server:
        ends: list[aiosocketserver.requests.statistics.RequestEnd] = []
        server._requests.observers.append(ends.append)
        await server.start_serving()
        shortage = Shortage(monkeypatch, what, NO_MEMORY)
        async with client_of(server.server_address) as client:
            await until(lambda: shortage.tries)
            report = await server.shutdown(0)
            assert await client.receive_all() == b""
    assert report.cut == 1
    assert [end.outcome for end in ends] == ["cut"]
    assert server.statistics.active == 0


@pytest.mark.parametrize("daemon", [False, True])
async def test_a_shutdown_waits_for_those_that_wait(
    daemon: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server_of("start", daemon_threads=daemon) as server:
        await server.start_serving()
        shortage = Shortage(monkeypatch, "start", NO_THREAD)
        async with client_of(server.server_address) as client:
            await client.send(b"hello")
            await until(lambda: shortage.tries)
            ending = asyncio.create_task(server.shutdown())
            await until(lambda: server.draining)
            shortage.end()
            report = await ending
            assert await client.receive(5) == b"hello"
    assert report.cut == 0


@pytest.mark.parametrize("what", ["start", "fork"])
async def test_the_time_of_a_request_passes_while_it_waits(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server_of(what, request_timeout=0.1) as server:
        await server.start_serving()
        shortage = Shortage(monkeypatch, what, NO_MEMORY)
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b""
        await until(lambda: not server.statistics.active)
        shortage.end()
        assert server.statistics.timed_out == {"request_timeout": 1}
        assert server.statistics.handlers_failed == 0


def test_what_goes_on_elsewhere_has_no_more_time_than_is_left() -> None:
    class Request:
        begun_at = time.monotonic() - 100

    clock = Clock()
    times = RequestTimes(clock, 10.0, print, None)  # type: ignore[arg-type]
    times.begun(Request())  # type: ignore[arg-type]
    assert clock.pending() == [clock.now]


@pytest.mark.parametrize("what", ["start", "fork"])
async def test_handle_request_returns_when_it_has_been_started(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with server_of(what) as server, client_of(server.server_address) as client:
        shortage = Shortage(monkeypatch, what, NO_MEMORY)
        await client.send(b"hello")
        handling = asyncio.create_task(server.handle_request())
        await until(lambda: shortage.tries > 3)
        assert not handling.done()
        shortage.end()
        await handling
        assert await client.receive(5) == b"hello"
        await all_reaped(server)


async def test_a_handle_request_that_is_cancelled_gives_the_connection_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with server_of("start") as server, client_of(server.server_address) as client:
        shortage = Shortage(monkeypatch, "start", NO_THREAD)
        handling = asyncio.create_task(server.handle_request())
        await until(lambda: shortage.tries > 3)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        assert await client.receive_all() == b""
        await until(lambda: not server.statistics.active)


@pytest.mark.parametrize("is_coroutine", [False, True])
async def test_an_overridden_process_request_need_not_know(
    is_coroutine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(aiosocketserver.ThreadingTCPServer):
        def process_request(self, request: Any, client_address: Any) -> None:
            super().process_request(request, client_address)

    class Coroutine(aiosocketserver.ThreadingTCPServer):
        async def process_request(self, request: Any, client_address: Any) -> None:
            await asyncio.sleep(0)
            super().process_request(request, client_address)

    async with (Coroutine if is_coroutine else Plain)(LOCALHOST, Answer) as server:
        await server.start_serving()
        shortage = Shortage(monkeypatch, "start", NO_THREAD)
        async with client_of(server.server_address) as client:
            await client.send(b"hello")
            await until(lambda: shortage.tries > 3)
            shortage.end()
            assert await client.receive(5) == b"hello"


async def test_a_loop_that_ends_closes_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    server = server_of("start")

    async def serve() -> socket.socket:
        await server.start_serving()
        client = socket.create_connection(server.server_address, 10)
        await until(lambda: shortage.tries > 1)
        return client

    shortage = Shortage(monkeypatch, "start", NO_THREAD)
    with await asyncio.to_thread(lambda: asyncio.run(serve())) as client:
        assert client.recv(1) == b""
    server.server_close()


# --- run_in_thread ---


class Nothing(aiosocketserver.BaseRequestHandler):
    async def handle(self) -> None:
        pass


@pytest.mark.parametrize("max_threads", [1, None])
async def test_run_in_thread_waits(
    max_threads: int | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiosocketserver.TCPServer(LOCALHOST, Nothing, max_threads=max_threads) as server:
        with monkeypatch.context() as patch:
            shortage = Shortage(patch, "start", NO_THREAD)
            calls = [asyncio.create_task(server.run_in_thread(int)) for _ in range(3)]
            await until(lambda: shortage.tries > 3)
            # It gives its place back.
            calls[0].cancel()
            await asyncio.wait(calls[:1])
            shortage.end()
            assert await asyncio.gather(*calls[1:]) == [0, 0]
    (line,) = errors_in(caplog)
    assert line.startswith("run_in_thread() waits until a thread can be started: can't start")


# --- children that are there, and what watches them is not ---


async def test_a_child_is_reaped_without_a_descriptor_or_thread_to_watch_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor(pid: int) -> int:
        raise OSError(24, "Too many open files")

    def no_thread(self: threading.Thread) -> None:
        raise NO_THREAD

    async with server_of("fork") as server:
        await server.start_serving()
        with monkeypatch.context() as patch:
            patch.setattr(os, "pidfd_open", no_descriptor, raising=False)
            patch.setattr(threading.Thread, "start", no_thread)
            assert await ask(server.server_address, b"hello") == b"hello"
            await all_reaped(server)
    assert server.statistics.handlers_failed == 0


# --- want of memory in the listener ---


async def test_a_connection_for_which_there_is_no_memory_is_refused_and_the_next_one_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with aiosocketserver.TCPServer(LOCALHOST, Nothing) as server:
        await server.start_serving()
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        failures = 3

        def no_memory(loop: Any, coroutine: Any, **options: Any) -> Any:
            nonlocal failures
            if "_serve" not in coroutine.__qualname__:
                return asyncio.Task(coroutine, loop=loop, **options)
            failures -= 1
            if not failures:
                loop.set_task_factory(before)
            raise MemoryError

        loop.set_task_factory(no_memory)
        try:
            for _ in range(4):
                assert await ask(server.server_address) == b""
        finally:
            loop.set_task_factory(before)
    assert server.statistics.refused == {"memory": 3}
    assert server.statistics.accepted == 4
    assert server.statistics.accept_pauses == 3
    (line,) = errors_in(caplog)
    assert line.startswith("no memory to serve ('127.0.0.1'")


@pytest.mark.parametrize("overridden", [False, True])
@pytest.mark.parametrize("error", [NO_MEMORY, NO_KERNEL_MEMORY], ids=["python", "kernel"])
async def test_a_datagram_for_which_there_is_no_memory_is_read_later(
    overridden: bool,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = 0

    class Server(aiosocketserver.UDPServer):
        if overridden:

            def get_request(self) -> Any:
                return super().get_request()

    class Echo(aiosocketserver.DatagramRequestHandler):
        async def handle(self) -> None:
            self.wfile.write(self.packet)

    receive = DatagramReceiver.receive

    def fails(self: Any) -> Any:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise error
        return receive(self)

    monkeypatch.setattr(DatagramReceiver, "receive", fails)
    async with Server(LOCALHOST, Echo) as server:
        await server.start_serving()
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.connect(server.server_address)
            client.setblocking(False)
            client.send(b"hello")
            assert await asyncio.get_running_loop().sock_recv(client, 10) == b"hello"
    assert failures == 3
    assert server.statistics.accept_pauses == 3
    assert len(errors_in(caplog)) == 1

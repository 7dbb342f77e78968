"""Legacy handlers in forked children: each request its own, reaped one by one, and the end."""

import asyncio
import logging
import os
import signal
import socket
import socketserver
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from tests.forking_support import (
    Held,
    all_reaped,
    ask,
    client_of,
    exists,
    forking_server,
    held_server,
    pid_from,
)

# --- the servers ---


async def test_each_request_is_served_in_a_child_of_its_own() -> None:
    async with forking_server(lambda self: f"{os.getpid()} {os.getppid()}") as server:
        await server.start_serving()
        answers = [(await ask(server.server_address)).split() for _ in range(3)]
    assert len({pid for pid, _ in answers}) == 3
    assert {int(parent) for _, parent in answers} == {os.getpid()}
    assert server.statistics.handlers_failed == 0


async def test_unix_stream_server_forks(tmp_path: Path) -> None:
    path = str(tmp_path / "s")

    class Close(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.server.server_close()
            self.wfile.write(b"%d" % os.getpid())

    async with aiosocketserver.ForkingUnixStreamServer(path, Close) as server:
        await server.start_serving()
        assert int(await ask(path)) != os.getpid()
        # The path is the parent's, though the child has closed its server.
        assert int(await ask(path)) != os.getpid()


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_datagram_servers_fork(kind: str, tmp_path: Path) -> None:
    class Pid(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.packet.upper() + b" %d" % os.getpid())

    server: Any = (
        aiosocketserver.ForkingUDPServer(("127.0.0.1", 0), Pid)
        if kind == "udp"
        else aiosocketserver.ForkingUnixDatagramServer(str(tmp_path / "s"), Pid)
    )
    async with server:
        await server.start_serving()
        with socket.socket(server.address_family, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0) if kind == "udp" else str(tmp_path / "c"))
            client.setblocking(False)
            pids = set()
            for _ in range(3):
                client.sendto(b"hello", server.server_address)
                answer = await asyncio.get_running_loop().sock_recv(client, 100)
                hello, pid = answer.split()
                assert hello == b"HELLO"
                pids.add(int(pid))
    assert len(pids) == 3
    assert os.getpid() not in pids


async def test_coroutine_handler_runs_on_the_loop() -> None:
    class OnLoop(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"%d" % os.getpid())

    address = ("127.0.0.1", 0)
    async with aiosocketserver.ForkingTCPServer(address, OnLoop, max_children=1) as server:
        await server.start_serving()
        assert int(await ask(server.server_address)) == os.getpid()


async def test_handle_request_serves_one_connection() -> None:
    async with forking_server(lambda self: "hello") as server:
        question = asyncio.create_task(ask(server.server_address))
        await server.handle_request()
        assert await question == b"hello"
        await all_reaped(server)


# --- reaping ---


async def test_children_are_reaped_as_they_end() -> None:
    async with held_server() as server:
        await server.start_serving()
        async with client_of(server.server_address) as one, client_of(server.server_address) as two:
            pids = [await pid_from(one), await pid_from(two)]
            assert server.active_children == set(pids)
            for client in (one, two):
                await client.send(b"\n")
            await all_reaped(server)
            assert not any(exists(pid) for pid in pids)
            assert server.active_children == set()


async def test_children_are_reaped_without_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    async with held_server() as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            pid = await pid_from(client)
            await client.send(b"\n")
            await all_reaped(server)
        assert not exists(pid)


async def test_exit_code_of_a_foreign_child_stays_available() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as foreign:
        os.waitid(os.P_PID, foreign.pid, os.WEXITED | os.WNOWAIT)
        async with forking_server(lambda self: os.getpid()) as server:
            await server.start_serving()
            pid = int(await ask(server.server_address))
            await all_reaped(server)
            assert not exists(pid)
        assert foreign.wait() == 7


@pytest.mark.parametrize("pidfd", [True, False])
async def test_child_that_somebody_else_reaped_is_forgotten(
    pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    async with held_server() as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            pid = await pid_from(client)
            await client.send(b"\n")
            # Before the loop has a turn.
            os.waitpid(pid, 0)
            await all_reaped(server)
            assert server.active_children == set()


async def test_collect_children_reaps_at_once() -> None:
    async with held_server() as server:
        await server.start_serving()
        async with client_of(server.server_address) as one, client_of(server.server_address) as two:
            ended, running = await pid_from(one), await pid_from(two)
            await one.send(b"\n")
            os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
            server.collect_children()
            assert server.active_children == {running}
            await two.send(b"\n")
            server.collect_children(blocking=True)
            assert server.active_children == set()


async def test_exit_codes_tell_how_the_handler_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    waitpid = os.waitpid

    def recording(pid: int, options: int) -> tuple[int, int]:
        result = waitpid(pid, options)
        if result[0]:
            codes.append(os.waitstatus_to_exitcode(result[1]))
        return result

    class Ends(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            how = self.rfile.read()
            logging.disable()
            sys.stderr = None
            if how == b"fails":
                raise ValueError
            if how == b"exits":
                sys.exit(3)
            if how == b"exits far out":
                sys.exit(2**40 + 5)
            if how == b"exits with a message":
                sys.exit("a message")
            if how == b"is interrupted":
                raise KeyboardInterrupt
            if how == b"is killed":
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(os, "waitpid", recording)
    async with aiosocketserver.ForkingTCPServer(("127.0.0.1", 0), Ends) as server:
        await server.start_serving()
        for how, code in (
            (b"returns", 0),
            (b"fails", 1),
            (b"exits", 3),
            (b"exits far out", 5),
            (b"exits with a message", 1),
            (b"is interrupted", 1),
            (b"is killed", -signal.SIGKILL),
        ):
            await ask(server.server_address, how)
            await all_reaped(server)
            assert codes.pop() == code, how
        assert server.statistics.handlers_failed == 6


async def test_client_that_vanished_is_no_failure_of_the_child() -> None:
    class Chatter(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while True:
                self.wfile.write(bytes(1000))

    async with aiosocketserver.ForkingTCPServer(("127.0.0.1", 0), Chatter) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.receive(10)
        await all_reaped(server)
        assert server.statistics.handlers_failed == 0


async def test_killed_child_is_logged_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with held_server() as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            pid = await pid_from(client)
            os.kill(pid, signal.SIGKILL)
            assert await client.receive_all() == b""
        await all_reaped(server)
        assert f"the child {pid}" in caplog.text
        assert "signal 9" in caplog.text
        async with client_of(server.server_address) as client:
            assert await pid_from(client) != pid


async def test_max_children_pauses_accepting_and_resumes() -> None:
    accepted = 0

    class Counting(aiosocketserver.ForkingTCPServer):
        def get_request(self) -> Any:
            nonlocal accepted
            request = super().get_request()
            accepted += 1
            return request

    address = ("127.0.0.1", 0)
    async with Counting(address, Held, max_children=2, linger_timeout=0) as server:
        await server.start_serving()
        address = server.server_address
        async with (
            client_of(address) as one,
            client_of(address) as two,
            client_of(address) as three,
        ):
            await pid_from(one)
            await pid_from(two)
            assert accepted == 2
            await one.send(b"\n")
            await pid_from(three)
            assert accepted == 3


# --- errors ---


@pytest.mark.parametrize("coroutine", [True, False])
async def test_handle_error_runs_in_the_child(coroutine: bool) -> None:
    def report(request: socket.socket) -> None:
        request.sendall(b"%r in %d" % (repr(sys.exception()).encode(), os.getpid()))

    class Plain(aiosocketserver.ForkingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> Any:
            report(request)

    class Coroutine(aiosocketserver.ForkingTCPServer):
        async def handle_error(self, request: Any, client_address: Any) -> None:
            await asyncio.sleep(0)
            report(request)

    class Fails(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError("as asked")

    async with (Coroutine if coroutine else Plain)(("127.0.0.1", 0), Fails) as server:
        await server.start_serving()
        answer = await ask(server.server_address)
    assert b"ValueError('as asked')" in answer
    assert b"in %d" % os.getpid() not in answer


# --- the end ---


async def test_whole_answer_arrives_over_unread_input() -> None:
    answer = os.urandom(200_000)

    class Rude(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer)

    async with aiosocketserver.ForkingTCPServer(("127.0.0.1", 0), Rude) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(bytes(100_000))
            assert await client.receive_all() == answer


async def test_shutdown_waits_for_children() -> None:
    async with held_server() as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await pid_from(client)
            shutdown = asyncio.create_task(server.shutdown(timeout=None))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not shutdown.done()
            await client.send(b"\n")
            await shutdown
            assert server.active_children == set()


@pytest.mark.parametrize("deaf", [True, False])
async def test_shutdown_terminates_children_at_the_deadline_and_kills_deaf_ones(
    deaf: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiosocketserver.servers.draining._GRACE", 10.0 if not deaf else 0.2)

    class Stays(Held):
        def handle(self) -> None:
            if deaf:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            super().handle()

    async with aiosocketserver.ForkingTCPServer(("127.0.0.1", 0), Stays) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            pid = await pid_from(client)
            await server.shutdown(timeout=0)
            assert not exists(pid)
    expected = signal.SIGKILL if deaf else signal.SIGTERM
    assert f"was killed by signal {expected:d}" in caplog.text


async def test_shutdown_does_not_wait_for_children_that_nobody_awaits() -> None:
    async with held_server(block_on_close=False) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            pid = await pid_from(client)
            await server.shutdown(timeout=None)
            assert server.active_children == {pid}
            await client.send(b"\n")
            server.collect_children(blocking=True)
            assert not exists(pid)


@pytest.mark.parametrize("pidfd", [True, False])
def test_server_close_after_the_loop_waits_for_the_children(
    pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open")
    server = held_server()
    with socket.create_connection(server.server_address) as client:

        async def start() -> int:
            await server.start_serving()
            return int(await asyncio.to_thread(client.recv, 100))

        pid = asyncio.run(start())
        client.sendall(b"\n")
        server.server_close()
    assert not exists(pid)
    assert server.active_children == set()

"""Several processes: what becomes of clients when one dies, hangs or is replaced."""

import asyncio
import contextlib
import errno
import json
import os
import select
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from aiosocketserver.deploy.notify import Notifier
from aiosocketserver.deploy.process import Limits, Worker
from aiosocketserver.deploy.snapshots import Snapshot
from aiosocketserver.deploy.workers import Supervisor
from tests.deploy_support import Command, ask, metrics, serving_application
from tests.support import until_later

TWO = ("--bind", "tcp://127.0.0.1:0", "--workers", "2")

PRINTS = """
from application import Echo as Served

print("imported")

class Echo(Served):
    async def handle(self):
        print("served")
        await super().handle()
"""

# Loaded in each worker. The second one kills the first, which serves, and begins to serve itself
# when that one's successor has died at its start.
KILLS_THE_FIRST = """
import os, signal
from application import Process

with open("loaded", "a+") as file:
    file.seek(0)
    earlier = [int(line) for line in file]
    print(os.getpid(), file=file)
if len(earlier) == 1:
    os.kill(earlier[0], signal.SIGKILL)
    open("died").read()
elif len(earlier) == 2:
    open("died", "w").close()
    os._exit(9)
"""


def process_of(sock: socket.socket) -> int:
    """Which worker serves this connection."""
    sock.sendall(b"?\n")
    return int(sock.recv(20))


def connect(command: Command) -> socket.socket:
    return socket.create_connection(("127.0.0.1", command.ports[0]), 20)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_both_serve_and_one_that_is_killed_is_replaced(loop: str, tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Process", *TWO, "--loop", loop) as command:
        workers = set(command.children())
        assert len(workers) == 2
        clients = [connect(command) for _ in range(20)]
        served = [process_of(client) for client in clients]
        assert set(served) <= workers
        victim = served[0]
        os.kill(victim, signal.SIGKILL)
        command.until(rf"\(process {victim}\) was killed by SIGKILL")
        # The others go on, and whoever comes is served.
        for client, pid in zip(clients, served, strict=True):
            if pid != victim:
                assert process_of(client) == pid
        while victim in command.children() or len(command.children()) < 2:
            with connect(command) as client:
                assert process_of(client) != victim
        for client in clients:
            client.close()
        assert command.end() == 0


def test_one_that_is_killed_while_the_second_one_starts_is_replaced(tmp_path: Path) -> None:
    """Its successor too, which dies before it serves: neither keeps the service from starting."""
    (tmp_path / "killing.py").write_text(KILLS_THE_FIRST)
    os.mkfifo(tmp_path / "died")
    with serving_application(tmp_path, "killing:Process", *TWO) as command:
        assert "was killed by SIGKILL" in "\n".join(command.lines)
        # The second one may serve before the parent has seen the successor's end.
        if not any("ended with 9" in line for line in command.lines):
            command.until("ended with 9")
        while len(command.children()) < 2:
            with connect(command) as client:
                process_of(client)
        assert command.end() == 0


def test_kill_under_load_concerns_nobody_else(tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    done = threading.Event()

    def load(command: Command) -> None:
        while not done.is_set():
            with connect(command) as client:
                try:
                    pid = process_of(client)
                except (ConnectionError, ValueError):
                    ends["cut"] += 1
                else:
                    ends["served"] += 1
                    assert pid

    with serving_application(tmp_path, "application:Process", *TWO) as command:
        threads = [threading.Thread(target=load, args=(command,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        victim = command.children()[0]
        begun = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        while victim in command.children() or len(command.children()) < 2:
            assert time.monotonic() - begun < 20
        enough = ends["served"] + 500
        while ends["served"] < enough:
            assert time.monotonic() - begun < 40
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join()
        # Only those that the killed one had at that moment.
        assert ends["cut"] <= len(threads)
        assert command.end() == 0


def test_a_rolling_reload_refuses_and_cuts_nobody(tmp_path: Path) -> None:
    """Some hundred connections a second, and idle ones that the drain ends politely."""
    served: Counter[int] = Counter()
    failures: list[BaseException] = []
    done = threading.Event()

    def load(command: Command) -> None:
        try:
            while not done.is_set():
                answer = ask(command.ports[0])
                served[int(answer)] += 1
        except BaseException as error:
            failures.append(error)
            raise

    with serving_application(tmp_path, "application:Process", *TWO) as command:
        before = set(command.children())
        threads = [threading.Thread(target=load, args=(command,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        with connect(command) as idle:
            assert process_of(idle) in before
            for _ in range(3):
                command.process.send_signal(signal.SIGHUP)
                command.until("reloaded")
            assert idle.recv(10) == b""
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sum(served.values()) > 100
        after = set(command.children())
        assert len(after) == 2
        assert not after & before
        assert command.end() == 0


def test_a_reload_brings_new_code_and_one_that_is_broken_changes_nothing(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Echo", *TWO) as command:
        application = tmp_path / "application.py"
        code = application.read_text()
        assert ask(command.ports[0], b"a\n") == b"a\n"
        application.write_text(code.replace("write(line)", "write(line.upper())"))
        command.process.send_signal(signal.SIGHUP)
        command.until("reloaded")
        assert ask(command.ports[0], b"a\n") == b"A\n"
        before = set(command.children())
        application.write_text("1 / 0\n")
        command.process.send_signal(signal.SIGHUP)
        command.until("reloading has ended: .* cannot start, the others go on")
        assert ask(command.ports[0], b"a\n") == b"A\n"
        assert set(command.children()) == before
        assert command.end() == 0


def test_one_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    arguments = ("application:Blocks", *TWO, "--worker-timeout", "2.5")
    with serving_application(tmp_path, *arguments) as command, connect(command) as client:
        assert client.recv(6) == b"begun\n"
        command.until(r"gave no sign of life for .* s: killed")
        with connect(command) as other:
            assert other.recv(6) == b"begun\n"
        assert client.recv(1) == b""


def test_one_that_dies_at_its_start_again_and_again_is_given_time(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Echo", *TWO) as command:
        application = tmp_path / "application.py"
        code = application.read_text()
        application.write_text("import os; os._exit(9)\n")
        victim, other = command.children()
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        for _ in range(4):
            command.until("ended with 9")
        # 0.1, 0.2 and 0.4 seconds lie between them.
        assert time.monotonic() - begun > 0.7
        assert other in command.children()
        application.write_text(code)
        while len(command.children()) < 2:
            assert ask(command.ports[0], b"a\n") == b"a\n"
        assert command.end() == 0


def test_what_a_worker_prints_is_not_lost_and_not_printed_twice(tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    with serving_application(tmp_path, "prints:Echo", *TWO) as command:
        assert ask(command.ports[0], b"a\n") == b"a\n"
        assert command.end() == 0
        assert command.process.stdout is not None
        lines = sorted(command.process.stdout.read().splitlines())
        assert lines == ["imported", "imported", "served"]


def test_workers_end_when_their_parent_is_gone(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Process", *TWO) as command:
        workers = [os.pidfd_open(pid) for pid in command.children()]
        command.process.kill()
        for worker in workers:
            # Readable when the process has ended.
            assert select.select([worker], [], [], 20)[0]
            os.close(worker)


@pytest.mark.parametrize("reuse_port", [False, True])
def test_one_limit_for_all(reuse_port: bool, tmp_path: Path) -> None:
    more = ["--allow-reuse-port"] if reuse_port else []
    arguments = ("application:Process", *TWO, "--bind", "tcp://127.0.0.1:0")
    with serving_application(tmp_path, *arguments, "--max-connections", "3", *more) as command:
        first, second = command.ports
        assert first != second
        clients = [
            socket.create_connection(("127.0.0.1", port), 20) for port in (first, second) * 20
        ]
        for client in clients:
            client.sendall(b"?\n")
            client.setblocking(False)
        answered: set[socket.socket] = set()

        def look() -> None:
            for client in set(clients) - answered:
                with contextlib.suppress(BlockingIOError):
                    if client.recv(20):
                        answered.add(client)

        deadline = time.monotonic() + 20
        while len(answered) < 3:
            assert time.monotonic() < deadline
            look()
        time.sleep(0.2)
        look()
        assert len(answered) == 3
        for client in clients:
            client.close()
        assert command.end() == 0


@pytest.mark.parametrize("kind", ["udp", "unix-dgram"])
def test_datagrams_are_served_by_all(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bind = "udp://127.0.0.1:0" if kind == "udp" else f"unix-dgram://{path}"
    arguments = ("application:Datagram", "--bind", bind, "--workers", "2")
    with serving_application(tmp_path, *arguments) as command:
        served: set[int] = set()
        for number in range(200):
            family = socket.AF_INET if kind == "udp" else socket.AF_UNIX
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.settimeout(20)
                if kind == "udp":
                    client.connect(("127.0.0.1", command.ports[0]))
                else:
                    client.bind(str(tmp_path / f"client{number}"))
                    client.connect(str(path))
                client.send(b"hello")
                pid, text = client.recv(100).split()
                assert text == b"hello"
                served.add(int(pid))
            if len(served) == 2:
                break
        assert served <= set(command.children())
        assert kind != "udp" or len(served) == 2
        assert command.end() == 0


def test_metrics_are_those_of_all_and_of_the_dead(tmp_path: Path) -> None:
    with serving_application(
        tmp_path, "application:Process", *TWO, "--metrics", "127.0.0.1:0"
    ) as command:
        (line,) = [line for line in command.lines if "metrics and health on" in line]
        port = int(line.rpartition(":")[2])
        for _ in range(30):
            ask(command.ports[0])
        samples = metrics(port)
        assert samples["requests_total"] == 30
        assert samples["received_bytes_total"] == 60
        assert samples["workers"] == 2
        assert samples["request_seconds_count"] == 30
        command.process.send_signal(signal.SIGHUP)
        command.until("reloaded")
        ask(command.ports[0])
        samples = metrics(port)
        assert samples["requests_total"] == 31
        assert samples["requests_active"] == 0
        assert samples["worker_restarts_total"] == 0
        assert command.end() == 0


def serve_until_told(slot: int, sock: socket.socket) -> int:
    """A worker that serves nobody."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    state = {"phase": "serving", "shutdown_timeout": 1.0, "snapshot": Snapshot().to_json()}
    sock.sendall(json.dumps(state).encode() + b"\n")
    told.wait()
    return 0


async def test_a_reload_keeps_the_old_one_when_the_new_one_ends_as_soon_as_it_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    starts = Worker.starts

    async def end_if_new(worker: Worker) -> bool:
        served = await starts(worker)
        if ready.is_set():
            worker.kill(signal.SIGKILL)
            await worker.ends()
        return served

    monkeypatch.setattr(Worker, "starts", end_if_new)
    ready = asyncio.Event()
    supervisor = Supervisor(serve_until_told, 1, Limits(30.0, 60.0), 0.0, Notifier())
    running = asyncio.create_task(supervisor.run(ready.set))
    await ready.wait()
    supervisor.reload()
    await until_later(lambda: "reloading has ended" in caplog.text)
    assert "ended as soon as it served, the others go on" in caplog.text
    assert supervisor.serving == 1
    supervisor.stopping.set()
    assert await running == 0


async def test_a_fork_that_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aiosocketserver.deploy.workers._LONGEST_PAUSE", 0.01)
    failed = asyncio.Event()
    tries = 0

    def no_child(serve: object) -> int:
        nonlocal tries
        tries += 1
        if tries == 3:
            failed.set()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("aiosocketserver.deploy.workers.start_child", no_child)
    supervisor = Supervisor(lambda slot, sock: 0, 2, Limits(30.0, 60.0), 0.0, Notifier())
    supervisor._start_later(1, 0.0)
    await failed.wait()
    assert supervisor.restarts == 0
    await supervisor._end()
    messages = [record.getMessage() for record in caplog.records if record.exc_info]
    assert messages[:3] == ["worker 2 cannot be started"] * 3


async def test_a_first_fork_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_child(serve: object) -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("aiosocketserver.deploy.workers.start_child", no_child)
    supervisor = Supervisor(lambda slot, sock: 0, 2, Limits(30.0, 60.0), 0.0, Notifier())
    assert await supervisor.run(lambda: None) == 2
    assert "a worker cannot be started: [Errno 11]" in caplog.text

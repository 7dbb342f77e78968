"""What systemd is told is true in every order of signals: on a real NOTIFY_SOCKET."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiosocketserver.deploy.notify import Notifier
from tests.deploy_support import Command, serving_command
from tests.support import until

SLOW = """
import os, time
print("imported", flush=True)
while os.path.exists("hang"):
    time.sleep(0.01)
from application import *

class Stays(StreamRequestHandler):
    async def handle(self):
        await self.wfile.write(b"begun\\n")
        await self.wfile.flush()
        await asyncio.sleep(60)
"""

SERVING = "STATUS=serving"
HALF = "STATUS=serving with 1 of 2 workers"
NONE = "STATUS=no worker serves"
READY = "READY=1 STATUS=serving"
FAILED = "READY=1 STATUS=serving; the last reload failed"
RELOADING = "RELOADING=1"
END = ["STOPPING=1", "STATUS=stopping"]

# Messages that wait in a Unix datagram socket, and no more.
ROOM = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())


class Manager:
    """Takes what a service tells, as systemd does; without what feeds the watchdog."""

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self._last = 0
        self._changed = threading.Condition()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while (message := self._sock.recv(4096).decode()) != "end":
            if message == "WATCHDOG=1":
                continue
            if match := re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", message):
                now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                assert self._last < int(match[1]) <= now
                self._last = int(match[1])
                message = RELOADING
            with self._changed:
                # Where it serves, and why a reload has failed, is for people.
                short = re.sub(r"serving \S+ on .*|(?<=failed): .*", _shortened, message)
                self.told.append(short.replace("\n", " "))
                self._changed.notify_all()

    def until(self, expected: list[str]) -> None:
        """Wait until as much was told, which has to be that."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.told) >= len(expected), 30)
            assert self.told == expected

    def until_all_serve(self) -> list[str]:
        """Wait until that was told after a reload; all that was told."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.told[-1].endswith(SERVING)
                    and any(told.startswith("READY") for told in self.told[2:])
                ),
                30,
            )
            return self.told[:]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"end", self._sock.getsockname())
        self._thread.join(30)
        self._sock.close()


def _shortened(match: "re.Match[str]") -> str:
    return "serving" if match[0].startswith("serving") else ""


class Order:
    """One service, to which things happen in an order."""

    def __init__(self, command: Command, manager: Manager, folder: Path) -> None:
        self.command = command
        self.manager = manager
        self.hang = folder / "hang"
        self.target = folder / "slow.py"
        self.expected: list[str] = []
        self.code = 0

    def tells(self, *messages: str) -> None:
        self.expected += messages
        self.manager.until(self.expected)

    def send(self, number: signal.Signals) -> None:
        self.command.process.send_signal(number)

    def imported(self) -> None:
        """Wait until a process has begun to import the target."""
        assert self.command.process.stdout is not None
        assert self.command.process.stdout.readline() == "imported\n"


def just_serves(order: Order) -> None:
    order.tells(READY)
    order.send(signal.SIGTERM)
    order.tells(*END)


def reloads(order: Order) -> None:
    order.tells(READY)
    for _ in range(3):
        order.send(signal.SIGHUP)
        order.tells(RELOADING, READY)
    order.send(signal.SIGINT)
    order.tells(*END)


def reloads_while_it_drains(order: Order) -> None:
    order.tells(READY)
    with client_of(order):
        order.send(signal.SIGTERM)
        order.tells(*END)
        order.send(signal.SIGHUP)
        order.command.until("a reload was asked for while the service ends: nothing is reloaded")


def reloads_while_it_starts(order: Order) -> None:
    order.imported()
    order.send(signal.SIGHUP)
    if order.command.process.args[-1] == "2":  # type: ignore[index]
        order.command.until("it begins when the one under way has ended")
    order.hang.unlink()
    order.tells(READY, RELOADING, READY)
    order.send(signal.SIGTERM)
    order.tells(*END)


def stops_while_it_starts(order: Order) -> None:
    order.imported()
    order.send(signal.SIGTERM)
    order.tells(*END)


def cannot_start(order: Order) -> None:
    order.imported()
    order.code = 2
    order.tells(*END)


def stops_while_it_reloads(order: Order) -> None:
    order.tells(READY)
    order.hang.touch()
    order.send(signal.SIGHUP)
    order.tells(RELOADING)
    order.send(signal.SIGTERM)
    order.tells(*END)


def reloads_and_fails(order: Order) -> None:
    order.tells(READY)
    code = order.target.read_text()
    order.target.write_text("1 / 0\n")
    order.send(signal.SIGHUP)
    order.tells(RELOADING, FAILED)
    order.target.write_text(code)
    order.hang.touch()
    order.send(signal.SIGHUP)
    order.tells(RELOADING, FAILED)
    order.hang.unlink()
    order.send(signal.SIGHUP)
    order.tells(RELOADING, READY)
    order.send(signal.SIGTERM)
    order.tells(*END)


def reloads_while_it_reloads(order: Order) -> None:
    order.tells(READY)
    order.hang.touch()
    order.send(signal.SIGHUP)
    order.tells(RELOADING)
    order.send(signal.SIGHUP)
    order.command.until("it begins when the one under way has ended")
    order.hang.unlink()
    order.tells(READY, RELOADING, READY)
    order.send(signal.SIGTERM)
    order.tells(*END)


def all_die_and_come_back(order: Order) -> None:
    order.tells(READY)
    order.hang.touch()
    for worker in order.command.children():
        os.kill(worker, signal.SIGKILL)
    order.tells(HALF, NONE)
    order.hang.unlink()
    order.tells(HALF, SERVING)
    order.send(signal.SIGTERM)
    order.tells(*END)


def all_are_dead_when_it_stops(order: Order) -> None:
    order.tells(READY)
    order.hang.touch()
    for worker in order.command.children():
        os.kill(worker, signal.SIGKILL)
    order.tells(HALF, NONE)
    order.send(signal.SIGTERM)
    order.tells(*END)


def all_are_dead_when_it_reloads(order: Order) -> None:
    order.tells(READY)
    order.hang.touch()
    for worker in order.command.children():
        os.kill(worker, signal.SIGKILL)
    order.tells(HALF, NONE)
    order.send(signal.SIGHUP)
    order.tells(RELOADING)
    order.hang.unlink()
    order.command.until("reloaded")
    # Those that replace the dead come before the end of the reload, or after it.
    told = order.manager.until_all_serve()
    (ready,) = [told for told in told[len(order.expected) :] if told.startswith("READY=1 ")]
    assert ready in (READY, f"READY=1 {HALF}")
    order.expected = told
    order.send(signal.SIGTERM)
    order.tells(*END)


@contextlib.contextmanager
def client_of(order: Order) -> Iterator[None]:
    """A client whose request is in progress."""
    order.command.until(r"\] serving ")
    with socket.create_connection(("127.0.0.1", order.command.ports[0]), 20) as sock:
        assert sock.recv(6) == b"begun\n"
        yield


HANGING = {reloads_while_it_starts, stops_while_it_starts, cannot_start}

IN_ONE_PROCESS = [just_serves, reloads, reloads_while_it_drains, reloads_while_it_starts]

IN_WORKERS = [
    *IN_ONE_PROCESS,
    stops_while_it_starts,
    cannot_start,
    stops_while_it_reloads,
    reloads_and_fails,
    reloads_while_it_reloads,
    all_die_and_come_back,
    all_are_dead_when_it_stops,
    all_are_dead_when_it_reloads,
]


@pytest.mark.parametrize(
    ("workers", "what"),
    [("1", what) for what in IN_ONE_PROCESS] + [("2", what) for what in IN_WORKERS],
)
def test_every_order(workers: str, what: Callable[[Order], None], tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    if what in HANGING:
        (tmp_path / "hang").touch()
    manager = Manager(tmp_path / "notify")
    arguments = [
        *("slow:Stays", "--bind", "tcp://127.0.0.1:0", "--shutdown-timeout", "1"),
        *("--start-timeout", "2" if what in {cannot_start, reloads_and_fails} else "60"),
        *("--workers", workers),
    ]
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    try:
        with serving_command(tmp_path, *arguments, environment=environment) as command:
            order = Order(command, manager, tmp_path)
            what(order)
            assert command.wait() == order.code
            # Nothing more.
            manager.until(order.expected)
    finally:
        manager.close()


async def test_a_manager_without_room_is_told_later(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notifier = Notifier()
        expected = [f"STATUS={number}" for number in range(ROOM + 10)]
        for number in range(ROOM + 10):
            notifier.status(str(number))
        notifier.stopping()
        told: list[str] = []

        def all_told() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    told.append(sock.recv(100).decode())
            return len(told) == len(expected) + 2

        await until(all_told)
        assert told == [*expected, *END]
        notifier.close()

"""Sockets from systemd, and what it is told."""

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiosocketserver.deploy.notify import Notifier
from tests.deploy_support import ask, serving_application

# Does what systemd does before it starts a service: sockets from descriptor 3 on.
PASS_SOCKETS = """
import os, sys
numbers = [int(number) for number in os.environ.pop("PASSED").split()]
high = [os.dup2(number, 100 + n) for n, number in enumerate(numbers)]
for n, number in enumerate(high):
    os.dup2(number, 3 + n)
    os.set_inheritable(3 + n, True)
    os.close(number)
for number in numbers:
    if number >= 3 + len(numbers):
        os.close(number)
os.environ["LISTEN_FDS"] = str(len(numbers))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def two_listeners() -> Iterator[list[socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        yield [one, other]


@contextlib.contextmanager
def told(folder: Path) -> Iterator[socket.socket]:
    """Where a service tells what it does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify"))
        sock.settimeout(20)
        yield sock


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("binds", [[], ["systemd://"], ["systemd://a", "systemd://b"]])
def test_its_sockets_are_served(binds: list[str], workers: str, tmp_path: Path) -> None:
    with two_listeners() as listeners:
        numbers = [sock.fileno() for sock in listeners]
        arguments = [argument for bind in binds for argument in ("--bind", bind)]
        with serving_application(
            tmp_path,
            *("application:Process", *arguments, "--workers", workers),
            environment={"PASSED": " ".join(map(str, numbers)), "LISTEN_FDNAMES": "a:b"},
            pass_fds=numbers,
            preexec=PASS_SOCKETS,
        ) as command:
            expected = {command.process.pid} if workers == "1" else set(command.children())
            ports = [sock.getsockname()[1] for sock in listeners]
            assert command.ports == ports
            for port in ports:
                assert int(ask(port)) in expected
            assert command.end() == 0


def test_descriptors_can_be_named(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        serving_application(
            tmp_path,
            *("application:Echo", "--bind", f"fd://{listener.fileno()}"),
            pass_fds=[listener.fileno()],
        ) as command,
    ):
        assert ask(listener.getsockname()[1], b"a\n") == b"a\n"
        assert command.end() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_systemd_is_told(workers: str, tmp_path: Path) -> None:
    arguments = ("application:Echo", "--bind", "tcp://127.0.0.1:0", "--workers", workers)
    with told(tmp_path) as sock:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with serving_application(tmp_path, *arguments, environment=environment) as command:
            first = sock.recv(1000).decode()
            assert first.startswith("READY=1\nSTATUS=serving application:Echo on tcp://127.0.0.1:")
            assert [sock.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            command.process.send_signal(signal.SIGHUP)
            states = [sock.recv(1000).decode()]
            while states[-1] != "READY=1\nSTATUS=serving":
                states.append(sock.recv(1000).decode())
            (reloading,) = [state for state in states if state.startswith("RELOADING=1\n")]
            microseconds = int(reloading.partition("MONOTONIC_USEC=")[2])
            assert abs(time.monotonic() * 1e6 - microseconds) < 60e6
            command.process.send_signal(signal.SIGTERM)
            while (state := sock.recv(1000)) != b"STOPPING=1":
                assert state == b"WATCHDOG=1"
            assert command.wait() == 0


async def test_a_manager_that_is_gone_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    notifier = Notifier()
    assert "NOTIFY_SOCKET" not in os.environ
    notifier.ready("serving")
    (record,) = caplog.records
    assert "the service manager at /no/such/socket was not told" in record.getMessage()


async def test_abstract_names_and_another_processs_watchdog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0aiosocketserver-notify-{os.getpid()}")
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@aiosocketserver-notify-{os.getpid()}")
        monkeypatch.setenv("WATCHDOG_USEC", "1000")
        monkeypatch.setenv("WATCHDOG_PID", "1")
        notifier = Notifier()
        notifier.ready("serving")
        assert sock.recv(100) == b"READY=1\nSTATUS=serving"
        await asyncio.sleep(0.01)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
        notifier.close()

"""A service whose processes are stopped, as by Ctrl-Z, a debugger or a frozen cgroup, and go on."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from tests.deploy_support import Command, ask, serving_application, serving_command

TWO = ("--bind", "tcp://127.0.0.1:0", "--workers", "2")

SLOW = """
import pathlib, time
from application import Process
with open("starts", "a") as file:
    file.write("x")
time.sleep(0.5)
"""


def everybody(command: Command) -> list[int]:
    return [command.process.pid, *command.children()]


def send(processes: Iterable[int], number: signal.Signals) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def stop_for(seconds: float, processes: Iterable[int]) -> None:
    processes = list(processes)
    send(processes, signal.SIGSTOP)
    # Time itself is what is tested.
    time.sleep(seconds)
    send(processes, signal.SIGCONT)


def test_while_it_starts(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with serving_command(tmp_path, "slow:Process", *TWO, "--start-timeout", "2") as command:
        while not (tmp_path / "starts").exists():
            time.sleep(0.01)
        stop_for(2.5, everybody(command))
        command.until(r"\] serving ")
        assert int(ask(command.ports[0])) in command.children()
        assert command.end() == 0
        assert not any("killed" in line for line in command.lines)


def test_while_it_drains(tmp_path: Path) -> None:
    arguments = ("application:Waits", *TWO, "--shutdown-timeout", "0.2")
    with (
        serving_application(tmp_path, *arguments) as command,
        socket.create_connection(("127.0.0.1", command.ports[0]), 20) as client,
    ):
        assert client.recv(6) == b"begun\n"
        processes = everybody(command)
        # Workers that are stopped before they hear of it have to be given their time.
        send(processes[1:], signal.SIGSTOP)
        command.process.send_signal(signal.SIGTERM)
        command.until("SIGTERM: draining")
        stop_for(4, processes)
        assert command.wait() == 0
        assert client.recv(100) == b"drained\n"
        assert not any("killed" in line for line in command.lines)


def test_the_parent_alone(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Process", *TWO) as command:
        victim, other = command.children()
        command.process.send_signal(signal.SIGSTOP)
        os.kill(victim, signal.SIGKILL)
        # The other one serves, and nobody is sent to the dead one.
        assert {int(ask(command.ports[0])) for _ in range(20)} == {other}
        command.process.send_signal(signal.SIGCONT)
        command.until(rf"\(process {victim}\) was killed by SIGKILL")
        while len(set(command.children()) - {victim}) < 2:
            time.sleep(0.01)
        assert command.end() == 0

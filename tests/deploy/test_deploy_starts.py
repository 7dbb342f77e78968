"""Workers that do not get as far as to serve, or that take too long to end."""

import asyncio
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from aiosocketserver.deploy.notify import Notifier
from aiosocketserver.deploy.process import Limits, Worker
from aiosocketserver.deploy.workers import Supervisor
from tests.deploy_support import Command, ask, get, serving_application, serving_command

TWO = ("--bind", "tcp://127.0.0.1:0", "--workers", "2")

# Its import takes as long as there is a file `hang`, as one that waits for a database.
SLOW = """
import os, signal, time
{more}
while os.path.exists("hang"):
    time.sleep(0.01)
from application import *
"""

# Code that keeps the interpreter's lock: a worker that only waits ends itself.
SLOW_END = """
import aiosocketserver, ctypes
def close(self):
    ctypes.PyDLL(None).sleep(1000)
aiosocketserver.TCPServer.server_close = close
"""


def write_target(folder: Path, more: str = "") -> Path:
    """Write the target `slow`; the file whose presence makes it hang."""
    (folder / "slow.py").write_text(SLOW.format(more=more))
    return folder / "hang"


def new_child(command: Command, before: set[int]) -> int:
    """Wait for a worker that was not there before."""
    while not (new := set(command.children()) - before):
        time.sleep(0.01)
    return new.pop()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_reload_whose_worker_hangs_ends_and_lets_the_next_one_through(
    stopped: bool, tmp_path: Path
) -> None:
    hang = write_target(tmp_path)
    with serving_application(tmp_path, "slow:Process", *TWO, "--start-timeout", "3") as command:
        before = set(command.children())
        hang.touch()
        command.process.send_signal(signal.SIGHUP)
        if stopped:
            os.kill(new_child(command, before), signal.SIGSTOP)
        command.until(r"worker 1 \(process \d+\) does not serve \d\.\d s after its start: killed")
        command.until("reloading has ended: worker 1 .* cannot start, the others go on")
        # Where it hangs, told by itself: before or after what the parent tells.
        told = any(re.search(r'slow\.py", line 5 in <module>', line) for line in command.lines)
        assert told is not stopped
        assert set(command.children()) == before
        assert int(ask(command.ports[0])) in before
        hang.unlink()
        command.process.send_signal(signal.SIGHUP)
        command.until("reloaded")
        assert not set(command.children()) & before
        assert command.end() == 0


def test_the_successors_of_dead_workers_that_hang_are_tried_again(tmp_path: Path) -> None:
    hang = write_target(tmp_path)
    arguments = ("slow:Process", *TWO, "--start-timeout", "2", "--metrics", "127.0.0.1:0")
    with serving_application(tmp_path, *arguments) as command:
        (line,) = [line for line in command.lines if "metrics and health on" in line]
        port = int(line.rpartition(":")[2])
        assert get(port, "/readyz") == (200, "ready\n")
        one, other = command.children()
        hang.touch()
        # What serves with one worker is ready.
        os.kill(one, signal.SIGKILL)
        command.until("was killed by SIGKILL")
        assert get(port, "/readyz") == (200, "ready\n")
        os.kill(other, signal.SIGKILL)
        command.until("no worker serves")
        assert get(port, "/readyz") == (503, "not ready\n")
        assert get(port, "/healthz") == (200, "alive\n")
        for _ in range(4):
            command.until("does not serve .* s after its start: killed")
        assert get(port, "/readyz") == (503, "not ready\n")
        hang.unlink()
        command.until("the service is ready again")
        assert get(port, "/readyz") == (200, "ready\n")
        assert ask(command.ports[0])
        command.process.send_signal(signal.SIGHUP)
        command.until("reloaded")
        assert command.end() == 0


def test_one_that_cannot_be_imported_any_more_is_not_ready(tmp_path: Path) -> None:
    arguments = ("application:Echo", *TWO, "--metrics", "127.0.0.1:0")
    with serving_application(tmp_path, *arguments) as command:
        (line,) = [line for line in command.lines if "metrics and health on" in line]
        port = int(line.rpartition(":")[2])
        (tmp_path / "application.py").write_text("1 / 0\n")
        for worker in command.children():
            os.kill(worker, signal.SIGKILL)
        command.until("no worker serves")
        assert get(port, "/readyz") == (503, "not ready\n")
        command.until("ended with 2")
        assert get(port, "/readyz") == (503, "not ready\n")
        assert command.end() == 0


def test_workers_that_say_nothing_do_not_count(tmp_path: Path) -> None:
    arguments = ("application:Echo", *TWO, "--metrics", "127.0.0.1:0")
    with serving_application(tmp_path, *arguments) as command:
        (line,) = [line for line in command.lines if "metrics and health on" in line]
        port = int(line.rpartition(":")[2])
        workers = command.children()
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        command.until("no worker serves")
        assert get(port, "/readyz") == (503, "not ready\n")
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        command.until("the service is ready again")
        assert get(port, "/readyz") == (200, "ready\n")
        assert set(command.children()) == set(workers)
        assert command.end() == 0


def test_a_first_start_that_hangs_is_told(tmp_path: Path) -> None:
    write_target(tmp_path).touch()
    arguments = ("slow:Process", *TWO, "--start-timeout", "2")
    with serving_command(tmp_path, *arguments) as command:
        assert command.wait() == 2
        text = "\n".join(command.lines)
        assert "worker 1 " in text
        assert "s after its start: killed" in text
        assert 'slow.py", line 5 in <module>' in text
        assert "] serving" not in text


@pytest.mark.parametrize("more", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_that_hangs(
    number: signal.Signals, more: str, tmp_path: Path
) -> None:
    write_target(tmp_path, more + "\nprint('imported', flush=True)").touch()
    arguments = ("slow:Process", *TWO, "--drain-delay", "100")
    with serving_command(tmp_path, *arguments) as command:
        assert command.process.stdout is not None
        assert command.process.stdout.readline() == "imported\n"
        begun = time.monotonic()
        assert command.end(number) == 0
        # Nobody has to be told first that it is not ready any more.
        assert time.monotonic() - begun < 50


def test_a_reload_that_is_asked_for_during_the_start_follows_it(tmp_path: Path) -> None:
    hang = write_target(tmp_path, "print('imported', flush=True)")
    hang.touch()
    with serving_command(tmp_path, "slow:Process", *TWO) as command:
        assert command.process.stdout is not None
        assert command.process.stdout.readline() == "imported\n"
        command.process.send_signal(signal.SIGHUP)
        command.until("a reload was asked for: it begins when")
        hang.unlink()
        command.until(r"\] serving ")
        command.until("reloaded")
        assert command.end() == 0


def test_a_hangup_during_the_start_of_a_single_process_does_not_end_it(tmp_path: Path) -> None:
    hang = write_target(tmp_path, "print('imported', flush=True)")
    hang.touch()
    with serving_command(tmp_path, "slow:Echo", *TWO[:2]) as command:
        assert command.process.stdout is not None
        assert command.process.stdout.readline() == "imported\n"
        command.process.send_signal(signal.SIGHUP)
        hang.unlink()
        command.until(r"\] serving ")
        assert ask(command.ports[0], b"a\n") == b"a\n"
        assert command.end() == 0


def test_reloads_in_quick_succession_bring_what_is_there_at_the_last(tmp_path: Path) -> None:
    hang = write_target(tmp_path)
    with serving_application(tmp_path, "slow:Process", *TWO) as command:
        before = set(command.children())
        hang.touch()
        command.process.send_signal(signal.SIGHUP)
        first = new_child(command, before)
        for _ in range(3):
            command.process.send_signal(signal.SIGHUP)
            command.until("a reload was asked for: it begins when")
        hang.unlink()
        command.until("reloaded")
        command.until("reloading: the workers are replaced")
        # One for all that were asked for meanwhile.
        command.until("reloaded")
        assert first not in command.children()
        assert len(command.children()) == 2
        assert command.end() == 0
        assert not any("reloading" in line for line in command.lines[-3:])


@pytest.mark.parametrize("hangs", ["stopped", "at the end"])
def test_one_that_does_not_end_is_killed(hangs: str, tmp_path: Path) -> None:
    more = "" if hangs == "stopped" else SLOW_END
    write_target(tmp_path, more)
    arguments = ("slow:Process", *TWO, "--shutdown-timeout", "0.1")
    with serving_application(tmp_path, *arguments) as command:
        first = command.children()[0]
        if hangs == "stopped":
            os.kill(first, signal.SIGSTOP)
        command.process.send_signal(signal.SIGHUP)
        command.until(rf"\(process {first}\) has not ended in \d\.\d s: killed")
        command.until("reloaded|has not ended")
        if hangs == "stopped":
            os.kill(command.children()[0], signal.SIGSTOP)
        assert command.end() == 0
        assert any("has not ended in" in line for line in command.lines[-5:])


def test_a_signal_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Process", *TWO) as command:
        before = set(command.children())
        victim = min(before)
        os.kill(victim, signal.SIGRTMIN + 3)
        command.until(rf"\(process {victim}\) was killed by signal {signal.SIGRTMIN + 3}")
        new_child(command, before)
        assert command.end() == 0


def test_whoever_ignores_its_children_is_no_hindrance(tmp_path: Path) -> None:
    """SIG_IGN for SIGCHLD survives exec; the kernel reaps, and there is no exit code."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with serving_application(tmp_path, "application:Process", *TWO, preexec=ignoring) as command:
        before = set(command.children())
        os.kill(min(before), signal.SIGKILL)
        new_child(command, before)
        assert command.end() == 0
        assert not any("Traceback" in line for line in command.lines)


def test_a_service_that_was_stopped_as_a_whole_goes_on(tmp_path: Path) -> None:
    """Ctrl-Z and `fg`: nobody gave a sign of life meanwhile, and nobody could have heard it."""
    arguments = ("application:Process", *TWO, "--worker-timeout", "2")
    with serving_application(tmp_path, *arguments) as command:
        workers = command.children()
        everybody = [command.process.pid, *workers]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        # Time itself is what is tested.
        time.sleep(3)
        os.kill(command.process.pid, signal.SIGCONT)
        time.sleep(0.3)
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        with socket.create_connection(("127.0.0.1", command.ports[0]), 20) as client:
            client.sendall(b"x\n")
            assert int(client.recv(100)) in workers
        assert command.end() == 0
        assert not any("no sign of life" in line for line in command.lines)


async def test_one_that_dies_ten_thousand_times_is_still_replaced() -> None:
    """After hours in which a database was down."""
    supervisor = Supervisor(lambda slot, sock: 0, 1, Limits(30.0, 60.0), 0.0, Notifier())
    worker = Worker(0, 0, asyncio.get_running_loop())
    worker.ready.set_result(False)
    delays: list[float] = []
    for _ in range(10_000):
        supervisor._current[0] = worker
        supervisor._replace(worker)
        (handle,) = supervisor._restarting
        delays.append(handle.when() - asyncio.get_running_loop().time())
        handle.cancel()
        supervisor._restarting.clear()
    assert delays[:3] == pytest.approx([0.1, 0.2, 0.4], abs=0.05)
    assert delays[-1] == pytest.approx(10, abs=0.05)

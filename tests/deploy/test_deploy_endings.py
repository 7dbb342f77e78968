"""A service that was told to end is gone in bounded time, whatever still runs in its process."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

import aiosocketserver
from tests.deploy_support import ROOT, Command, serving_command
from tests.port_support import free_port

APPLICATION = """\
import asyncio, atexit, logging, os, socketserver, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
import aiosocketserver

kept = []
of_module = ThreadPoolExecutor()

def stuck():
    time.sleep(1000)

async def swallow():
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

async def block_at_end():
    try:
        await asyncio.sleep(1000)
    finally:
        stuck()

async def generate(end):
    try:
        yield 1
    finally:
        await end()

async def wait():
    await asyncio.sleep(1000)

async def block():
    stuck()

class Finalized:
    def __del__(self):
        stuck()

class StuckHandler(logging.Handler):
    def emit(self, record):
        stuck()

def late():
    while not os.path.exists("go"):
        time.sleep(0.01)
    print("done", flush=True)

class Handler(aiosocketserver.StreamRequestHandler):
    async def handle(self):
        loop = asyncio.get_running_loop()
        kind = (await self.rfile.readline()).decode().strip()
        if kind == "run_in_executor":
            kept.append(loop.run_in_executor(None, stuck))
        elif kind == "to_thread":
            kept.append(asyncio.create_task(asyncio.to_thread(stuck)))
        elif kind == "queue of the executor":
            kept.extend(loop.run_in_executor(None, stuck) for _ in range(100))
        elif kind == "late executor":
            kept.append(loop.run_in_executor(None, late))
        elif kind == "own default executor":
            loop.set_default_executor(ThreadPoolExecutor())
            kept.append(loop.run_in_executor(None, stuck))
        elif kind == "executor of the module":
            kept.append(of_module.submit(stuck))
        elif kind == "thread":
            threading.Thread(target=stuck, name="mine").start()
        elif kind == "exit function":
            atexit.register(stuck)
        elif kind == "task":
            kept.append(asyncio.create_task(swallow()))
        elif kind == "task that blocks":
            kept.append(asyncio.create_task(block_at_end()))
        elif kind == "generator":
            kept.append(generate(wait))
            await anext(kept[-1])
        elif kind == "generator that blocks":
            kept.append(generate(block))
            await anext(kept[-1])
        elif kind == "finaliser":
            kept.append(Finalized())
        elif kind == "finaliser of the task":
            kept.append(asyncio.create_task(asyncio.sleep(1000)))
            kept[-1].held = None
            kept[-1].add_done_callback(lambda task, held=[Finalized()]: held.clear())
        elif kind == "open file":
            kept.append(open("out", "w"))
            kept[-1].write("written")
        elif kind == "log handler":
            logging.getLogger().addHandler(StuckHandler())
        elif kind == "close of the server":
            self.server.server_close = stuck
        await self.wfile.write(b"begun\\n")
        await self.wfile.flush()
        if kind == "blocked loop":
            stuck()
        elif kind == "handler":
            await swallow()
        elif kind == "server's thread":
            await self.server.run_in_thread(stuck)

class Legacy(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"begun\\n")
        stuck()

def threading_server(server_address, **options):
    return aiosocketserver.ThreadingTCPServer(server_address, Legacy, **options)

if __name__ == "__main__":
    logging.basicConfig(level="INFO", format="[] %(message)s")
    sys.exit(aiosocketserver.run(Handler, "tcp://127.0.0.1:0", shutdown_timeout=0.1))
"""

# What the loop's end has to do with. The rest is the same on each loop.
OF_LOOP = [
    "run_in_executor",
    "to_thread",
    "queue of the executor",
    "own default executor",
    "task",
    "task that blocks",
    "generator",
    "generator that blocks",
    "finaliser of the task",
    "blocked loop",
    "handler",
]
KINDS = [
    *OF_LOOP,
    "executor of the module",
    "thread",
    "exit function",
    "finaliser",
    "log handler",
    "close of the server",
    "server's thread",
    "legacy handler",
]
# Those that a second signal finds where the loop is gone, and others of the program.
AFTER_THE_LOOP = ["executor of the module", "thread", "exit function"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def begin(command: Command, kind: str) -> None:
    """Have a handler leave something stuck behind."""
    with socket.create_connection(("127.0.0.1", command.ports[0]), 20) as client:
        client.sendall(f"{kind}\n".encode())
        assert client.recv(6, socket.MSG_WAITALL) == b"begun\n"


@contextlib.contextmanager
def services(folder: Path, kinds: Sequence[str], *more: str) -> Generator[dict[str, Command]]:
    """A service for each kind, in which that is stuck. They end in the time of one."""
    (folder / "stuck.py").write_text(APPLICATION)
    with contextlib.ExitStack() as stack:
        commands: dict[str, Command] = {}
        for kind in kinds:
            target = "stuck:threading_server" if kind == "legacy handler" else "stuck:Handler"
            arguments = (target, "--bind", "tcp://127.0.0.1:0", *more)
            commands[kind] = stack.enter_context(serving_command(folder, *arguments))
        for kind, command in commands.items():
            command.until(r"\] serving ")
            begin(command, kind)
        yield commands


def end_all(commands: dict[str, Command]) -> dict[str, int]:
    """Tell them to end; the exit code of each, once all are gone."""
    for command in commands.values():
        command.process.send_signal(signal.SIGTERM)
    # They would be there after 30 seconds.
    return {kind: command.wait() for kind, command in commands.items()}


def place(line: str, function: str) -> str:
    """How the log says where something is stuck."""
    return f"stuck.py line {APPLICATION.splitlines().index(line) + 1}, in {function}"


def told(command: Command) -> list[str]:
    """What the log says of what has not ended, without the folder."""
    return [
        re.sub(r".*\] (.*: ).*(stuck\.py)", r"\1\2", line)
        for line in command.lines
        if "is cut: " in line or "is left behind: " in line
    ]


@pytest.mark.parametrize(
    ("loop", "workers", "kinds"),
    [
        ("asyncio", "1", KINDS),
        ("uvloop", "1", OF_LOOP),
        # A worker is at its end when its loop is.
        ("asyncio", "2", [*OF_LOOP, "thread", "exit function", "finaliser", "log handler"]),
    ],
    ids=["asyncio-1", "uvloop-1", "asyncio-2"],
)
def test_whatever_is_stuck_does_not_keep_a_service(
    loop: str, workers: str, kinds: Sequence[str], tmp_path: Path
) -> None:
    more = ("--shutdown-timeout", "0.1", "--workers", workers, "--loop", loop)
    with services(tmp_path, kinds, *more) as commands:
        assert end_all(commands) == dict.fromkeys(kinds, 0)
    stuck = place("    time.sleep(1000)", "stuck")
    assert told(commands["blocked loop"]) == [f"the thread 'MainThread' is cut: {stuck}"]
    end = place("        await end()", "generate")
    assert told(commands["generator"]) == [f"the generator 'generate' is left behind: {end}"]
    if "thread" in kinds:
        assert told(commands["thread"]) == [f"the thread 'mine' is cut: {stuck}"]


def test_a_second_signal_ends_it_at_once_after_the_drain_too(tmp_path: Path) -> None:
    kinds = ["run_in_executor", *AFTER_THE_LOOP]
    with services(tmp_path, kinds) as commands:
        for command in commands.values():
            command.process.send_signal(signal.SIGTERM)
            command.until("drained: ")
        # An interpreter without our handler makes 130 of SIGINT, too.
        codes = {kind: command.end(signal.SIGTERM) for kind, command in commands.items()}
        assert codes == dict.fromkeys(kinds, 128 + signal.SIGTERM)


def test_what_the_executor_has_begun_may_use_the_rest_of_the_time(tmp_path: Path) -> None:
    with services(tmp_path, ["late executor"], "--shutdown-timeout", "50") as commands:
        (command,) = commands.values()
        command.process.send_signal(signal.SIGTERM)
        command.until("drained: ")
        # Longer than all the rest has at least. Time itself is what is tested.
        time.sleep(3)
        assert command.process.poll() is None
        (tmp_path / "go").touch()
        assert command.wait() == 0
        assert command.process.stdout is not None
        assert command.process.stdout.read() == "done\n"
        assert not any("is cut" in line for line in command.lines)


def test_files_that_are_open_to_the_end_are_flushed(tmp_path: Path) -> None:
    with services(tmp_path, ["open file"]) as commands:
        assert end_all(commands) == {"open file": 0}
    assert (tmp_path / "out").read_text() == "written"


def test_a_worker_that_cannot_end_itself_is_killed(tmp_path: Path) -> None:
    with services(tmp_path, [""], "--shutdown-timeout", "0.1", "--workers", "2") as commands:
        (command,) = commands.values()
        os.kill(command.children()[0], signal.SIGSTOP)
        assert command.end() == 0
        assert any("has not ended in 3." in line for line in command.lines)
        # In time for the parent to end by itself.
        assert not any("is cut" in line for line in command.lines)


@pytest.mark.parametrize("kind", ["", "to_thread", "task", "generator"])
def test_serving_returns_whatever_is_stuck(kind: str) -> None:
    stuck = threading.Event()
    namespace: dict[str, object] = {"__name__": "stuck"}
    exec(APPLICATION.replace("time.sleep(1000)", "released.wait()"), namespace)
    namespace["released"] = stuck
    handler: type[aiosocketserver.StreamRequestHandler] = namespace["Handler"]  # type: ignore[assignment]
    try:
        with (
            aiosocketserver.serving(handler, shutdown_timeout=0.1) as address,
            socket.create_connection(address, 20) as client,
        ):
            client.sendall(f"{kind}\n".encode())
            assert client.recv(6, socket.MSG_WAITALL) == b"begun\n"
    finally:
        stuck.set()
        namespace["of_module"].shutdown()  # type: ignore[attr-defined]


# Programs


@contextlib.contextmanager
def program(folder: Path) -> Generator[Command]:
    """A program that serves with `run`."""
    process = subprocess.Popen(
        [sys.executable, "stuck.py"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    command = Command(process)
    try:
        yield command
    finally:
        command.close()


def test_whatever_run_leaves_behind_does_not_keep_the_program(tmp_path: Path) -> None:
    kinds = [
        "run_in_executor",
        "executor of the module",
        "thread",
        "task",
        "generator",
        "server's thread",
        "blocked loop",
    ]
    (tmp_path / "stuck.py").write_text(APPLICATION)
    with contextlib.ExitStack() as stack:
        commands = {kind: stack.enter_context(program(tmp_path)) for kind in kinds}
        for kind, command in commands.items():
            command.until("serving ")
            begin(command, kind)
        assert end_all(commands) == dict.fromkeys(kinds, 0)


PROGRAM = """\
import asyncio, atexit, os, signal, socket, threading, time
import aiosocketserver

class Handler(aiosocketserver.StreamRequestHandler):
    async def handle(self):
        loop = asyncio.get_running_loop()
        loop.run_in_executor(None, {job})
        os.kill(os.getpid(), signal.SIGTERM)

def connect():
    while True:
        try:
            socket.create_connection(("127.0.0.1", {port})).recv(1)
            return
        except OSError:
            time.sleep(0.01)

released = threading.Event()
before = signal.getsignal(signal.SIGTERM)
threading.Thread(target=connect, daemon=True).start()
code = aiosocketserver.run(Handler, "tcp://127.0.0.1:{port}", shutdown_timeout=0.1)
assert signal.getsignal(signal.SIGTERM) is before
{more}
print("goes on", code, flush=True)
"""


def output(job: str, more: str) -> tuple[str, int]:
    """What the program prints, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(job=job, more=more, port=free_port())],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.stdout, done.returncode


def test_the_program_goes_on_when_run_has_returned() -> None:
    # Longer than the service had to end. Time itself is what is tested.
    assert output("time.sleep, 1000", "time.sleep(4.5)") == ("goes on 0\n", 0)


def test_a_program_whose_leftovers_end_ends_by_itself() -> None:
    """Its own exit functions take as long as they take, and are called once."""
    more = """
def slow_end():
    print("ending", flush=True)
    time.sleep(3)
    print("ended", flush=True)
atexit.register(slow_end)
threading.Timer(0.5, released.set).start()
"""
    assert output("lambda: released.wait()", more) == ("goes on 0\nending\nended\n", 0)

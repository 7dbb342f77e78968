"""Signals in the thread that serves, the main one of a process: Ctrl-C, sys.exit, time limits."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat_support import BOUND, IMPLEMENTATIONS

ROOT = Path(__file__).parents[2]

PROGRAM = """\
import os, signal, socket, sys, threading, time
{imports}

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"in it")
        time.sleep(60)

class Server(socketserver.TCPServer):
    def handle_error(self, request, client_address):
        print("handle_error", flush=True)

def signal_idle(number):
    # After serve_forever() has waited for a while: nothing tells that it waits.
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()

def signal_in_handler(number):
    def connect():
        with socket.create_connection(server.server_address) as client:
            client.recv(10)
            os.kill(os.getpid(), number)
            print("client sees the end:", client.recv(10) == b"", flush=True)
    client = threading.Thread(target=connect)
    client.start()
    return client

with Server(("127.0.0.1", 0), Handler) as server:
{body}
"""


def run(name: str, body: str, *, status: int = 0) -> str:
    """What the program prints."""
    imports = (
        "import socketserver"
        if name == "socketserver"
        else f"os.environ['AIOSOCKETSERVER_LOOP'] = {name!r}\n"
        "from aiosocketserver import compat as socketserver"
    )
    program = PROGRAM.format(imports=imports, body="".join(f"    {n}\n" for n in body.split("\n")))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.stderr == ""
    assert done.returncode == status
    return done.stdout


@pytest.fixture(params=IMPLEMENTATIONS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_ctrl_c_ends_an_idle_server(name: str) -> None:
    assert (
        run(
            name,
            """\
signal_idle(signal.SIGINT)
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("KeyboardInterrupt")""",
        )
        == "KeyboardInterrupt\n"
    )


def test_ctrl_c_that_does_not_interrupt_the_waiting_ends_an_idle_server(name: str) -> None:
    """As when it comes just before the loop waits: here, because another thread gets it."""
    assert (
        run(
            name,
            """\
def interrupt():
    time.sleep(0.2)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("KeyboardInterrupt")""",
        )
        == "KeyboardInterrupt\n"
    )


def test_ctrl_c_interrupts_a_plain_handler_whose_client_sees_the_end(name: str) -> None:
    assert (
        run(
            name,
            """\
client = signal_in_handler(signal.SIGINT)
try:
    server.serve_forever()
except KeyboardInterrupt:
    client.join()
    print("KeyboardInterrupt")""",
        )
        == "client sees the end: True\nKeyboardInterrupt\n"
    )


def test_ctrl_c_ends_a_server_inside_a_running_loop(name: str) -> None:
    assert (
        run(
            name,
            """\
import asyncio
async def main():
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
loop = asyncio.new_event_loop()
signal_idle(signal.SIGINT)
# Not asyncio.run(), which has a SIGINT handler of its own.
loop.run_until_complete(main())
loop.close()""",
        )
        == "KeyboardInterrupt\n"
    )


def test_a_server_serves_again_after_ctrl_c(name: str) -> None:
    assert (
        run(
            name,
            """\
for _ in range(2):
    signal_idle(signal.SIGINT)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("KeyboardInterrupt")""",
        )
        == "KeyboardInterrupt\nKeyboardInterrupt\n"
    )


@pytest.mark.parametrize("when", ["idle", "in_handler"])
def test_a_signal_handler_may_exit(name: str, when: str) -> None:
    assert run(
        name,
        f"""\
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))
signal_{when}(signal.SIGTERM)
server.serve_forever()""",
        status=7,
    ) in ("", "client sees the end: True\n")


def test_an_exception_of_a_signal_handler_ends_an_idle_server(name: str) -> None:
    assert (
        run(
            name,
            """\
class TooLong(Exception):
    pass
def give_up(number, frame):
    raise TooLong
signal.signal(signal.SIGALRM, give_up)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try:
    server.serve_forever()
except TooLong:
    print("TooLong")""",
        )
        == "TooLong\n"
    )


def test_an_exception_of_a_signal_handler_in_a_plain_handler_is_the_request_s(name: str) -> None:
    assert (
        run(
            name,
            """\
def give_up(number, frame):
    raise ValueError
signal.signal(signal.SIGALRM, give_up)
client = signal_in_handler(signal.SIGALRM)
server.handle_request()
client.join()""",
        )
        == "handle_error\nclient sees the end: True\n"
    )


@pytest.mark.parametrize("when", ["idle", "in_handler"])
def test_a_signal_handler_may_set_the_flag_that_ends_serve_forever(name: str, when: str) -> None:
    out = run(
        name,
        f"""\
def stop(number, frame):
    server._BaseServer__shutdown_request = True
    if {when == "in_handler"}:
        raise ValueError
signal.signal(signal.SIGTERM, stop)
client = signal_{when}(signal.SIGTERM)
server.serve_forever()
if client is not None:
    client.join()
print("ended")""",
    )
    assert out.splitlines()[-1] == "ended"


def test_a_signal_handler_may_shut_down_in_a_thread(name: str) -> None:
    assert (
        run(
            name,
            """\
def stop(number, frame):
    threading.Thread(target=server.shutdown).start()
signal.signal(signal.SIGTERM, stop)
signal_idle(signal.SIGTERM)
server.serve_forever()
print("ended")""",
        )
        == "ended\n"
    )


@pytest.mark.parametrize("loop", IMPLEMENTATIONS[1:])
def test_shutdown_in_a_signal_handler_is_an_error_and_no_deadlock(loop: str) -> None:
    assert (
        run(
            loop,
            """\
signal.signal(signal.SIGTERM, lambda number, frame: server.shutdown())
signal_idle(signal.SIGTERM)
try:
    server.serve_forever()
except RuntimeError as error:
    print(str(error).split(":")[0])""",
        )
        == "shutdown() waits for the end of serve_forever(), which runs in this very thread\n"
    )


@pytest.mark.parametrize("loop", IMPLEMENTATIONS[1:])
def test_what_wakes_a_loop_at_a_signal_is_put_back_after_a_server_inside_it(loop: str) -> None:
    assert (
        run(
            loop,
            """\
import asyncio
async def main():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    threading.Timer(0, server.shutdown).start()
    server.serve_forever()
    print(signal.set_wakeup_fd(before) == before)
if os.environ["AIOSOCKETSERVER_LOOP"] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())""",
        )
        == "True\n"
    )

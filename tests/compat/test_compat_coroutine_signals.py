"""What a signal handler raises ends serve_forever(), also when coroutines and greenlets serve."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat_support import BOUND, LOOP_NAMES

ROOT = Path(__file__).parents[2]

PROGRAM = """\
import os, signal, socket, sys, threading
import aiosocketserver
from aiosocketserver import compat

class Enough(Exception):
    pass

class Coroutine(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        while data := await self.request.recv(10):
            sum(range(200))
            await self.request.sendall(data)

class Legacy(compat.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(10):
            sum(range(200))
            self.request.sendall(data)

class OnLoop(compat.TCPServer):
    shutdown_timeout = 0.0
    failed = False
    def handle_error(self, request, client_address):
        OnLoop.failed = True
        super().handle_error(request, client_address)

class InGreenlets(compat.GreenletMixIn, OnLoop):
    pass

def raises(kind):
    def handler(number, frame):
        raise kind(3)
    return handler

def visit(address, messages, served):
    with socket.create_connection(address, timeout=20) as client:
        try:
            for _ in range(messages):
                client.sendall(b"x")
                if not client.recv(10):
                    return
                served.set()
        except ConnectionError:
            pass

def serve(server, kind, load):
    served = threading.Event()
    def strike():
        served.wait()
        if not load:
            visitor.join()
        os.kill(os.getpid(), signal.SIGTERM)
    messages = 10**9 if load else 1
    visitor = threading.Thread(target=visit, args=(server.server_address, messages, served))
    killer = threading.Thread(target=strike)
    global mine
    mine = raises(kind)
    signal.signal(signal.SIGTERM, mine)
    visitor.start()
    killer.start()
    try:
        server.serve_forever()
    except kind as error:
        raised = error.args == (3,)
    else:
        raised = False
    assert raised, kind
    assert signal.getsignal(signal.SIGTERM) is mine
    server.server_close()
    visitor.join()
    killer.join()

{body}
"""


def run(loop: str, body: str, *, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.replace("{body}", body)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "AIOSOCKETSERVER_LOOP": loop},
        capture_output=True,
        text=True,
        timeout=3 * BOUND,
    )
    assert done.stderr == ""
    assert done.returncode == status
    return done.stdout


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("load", [False, True])
@pytest.mark.parametrize("kind", ["Enough", "TimeoutError", "KeyboardInterrupt", "SystemExit"])
@pytest.mark.parametrize("server", ["OnLoop, Coroutine", "InGreenlets, Legacy"])
def test_it_ends_it_each_time(loop: str, server: str, kind: str, load: bool) -> None:
    cls, handler = server.split(", ")
    body = f"""\
for _ in range({30 if load else 3}):
    serve({cls}(("127.0.0.1", 0), {handler}), {kind}, {load})
assert not OnLoop.failed
print("ended")"""
    assert run(loop, body) == "ended\n"


@pytest.mark.parametrize("server", ["OnLoop, Coroutine", "InGreenlets, Legacy"])
def test_one_that_is_set_while_requests_are_served_does_too(loop: str, server: str) -> None:
    cls, handler = server.split(", ")
    body = f"""\
class Server({cls}):
    def verify_request(self, request, client_address):
        self.count += 1
        if self.count == 2:
            signal.signal(signal.SIGTERM, raises(Enough))
        return True
    count = 0
def clients():
    for _ in range(2):
        visit(server.server_address, 1, threading.Event())
    # It ends the waiting, and no request: see docs/migration.md.
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
with Server(("127.0.0.1", 0), {handler}) as server:
    threading.Thread(target=clients).start()
    try:
        server.serve_forever()
    except Enough:
        print("ended")"""
    assert run(loop, body) == "ended\n"


def test_sys_exit_ends_the_program(loop: str) -> None:
    body = """\
server = OnLoop(("127.0.0.1", 0), Coroutine)
def leave(number, frame):
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
def client():
    visit(server.server_address, 1, threading.Event())
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=client).start()
with server:
    server.serve_forever()"""
    run(loop, body, status=7)


def test_handlers_end_in_order_before_it_is_raised(loop: str) -> None:
    body = """\
import asyncio
class Slow(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
        await self.request.sendall(b"the whole answer")
class Server(OnLoop):
    shutdown_timeout = 60.0
signal.signal(signal.SIGTERM, raises(Enough))
with Server(("127.0.0.1", 0), Slow) as server:
    client = socket.create_connection(server.server_address)
    try:
        server.serve_forever()
    except Enough:
        print(client.recv(100))
    client.close()"""
    assert run(loop, body) == "b'the whole answer'\n"


def test_a_hook_is_interrupted_as_ever(loop: str) -> None:
    """One that limits its own time, and catches what its handler raises."""
    body = """\
import time
class Server(OnLoop):
    def verify_request(self, request, client_address):
        if self.count:
            signal.raise_signal(signal.SIGTERM)
        self.count += 1
        return True
    count = 0
class Limited(Server):
    def verify_request(self, request, client_address):
        try:
            return super().verify_request(request, client_address)
        except Enough:
            print("caught")
            return True
signal.signal(signal.SIGTERM, raises(Enough))
def clients():
    for _ in range(2):
        visit(server.server_address, 1, threading.Event())
    server.shutdown()
for server in (Limited(("127.0.0.1", 0), Coroutine),):
    threading.Thread(target=clients).start()
    with server:
        server.serve_forever()"""
    assert run(loop, body) == "caught\n"


def test_the_program_may_look_at_its_handlers_and_go_on_to_them(loop: str) -> None:
    body = """\
class Looks(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        assert signal.getsignal(signal.SIGTERM) == mine
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        before = signal.getsignal(signal.SIGTERM)
        def first(number, frame):
            try:
                before(number, frame)
            except Enough:
                print("went on")
        signal.signal(signal.SIGTERM, first)
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
        await self.request.sendall(b"x")
server = OnLoop(("127.0.0.1", 0), Looks)
serve(server, Enough, False)"""
    assert run(loop, body) == "went on\n"


def test_serve_async_leaves_signals_to_the_program(loop: str) -> None:
    body = """\
import asyncio
class Looks(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        print(signal.getsignal(signal.SIGTERM) is mine)
        await self.request.sendall(b"x")
mine = raises(Enough)
signal.signal(signal.SIGTERM, mine)
server = OnLoop(("127.0.0.1", 0), Looks)
async def main():
    serving = asyncio.create_task(server.serve_async())
    await asyncio.to_thread(visit, server.server_address, 1, threading.Event())
    await asyncio.to_thread(server.shutdown)
    await serving
asyncio.run(main())
server.server_close()"""
    assert run(loop, body) == "True\n"

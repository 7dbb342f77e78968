"""Servers in threads that outlive the main one: what Python registers at its end is in place."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat_support import BOUND, LOOP_NAMES

ROOT = Path(__file__).parents[2]

PROGRAM = """\
import asyncio, os, socket, threading
import aiosocketserver
from aiosocketserver import compat

class Legacy(compat.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(10))

class Coroutine(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        await self.request.sendall(await self.request.recv(10))

def compat_server(name, handler):
    server = getattr(compat, name)(("127.0.0.1", 0), handler)
    return server, server.serve_forever, server.shutdown

def one_request(name, handler):
    server = getattr(compat, name)(("127.0.0.1", 0), handler)
    return server, server.handle_request, lambda: None

def native_server(name, handler):
    server = getattr(aiosocketserver, name)(("127.0.0.1", 0), handler)
    if os.environ.get("AIOSOCKETSERVER_LOOP") == "uvloop":
        def factory():
            import uvloop
            return uvloop.new_event_loop()
    else:
        factory = None
    loops = []
    async def main():
        loops.append(asyncio.get_running_loop())
        await server.serve_forever()
    def serve():
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
    async def shut_down():
        await server.shutdown()
    def stop():
        asyncio.run_coroutine_threadsafe(shut_down(), loops[0]).result()
    return server, serve, stop

def ask():
    with socket.create_connection(server.server_address, timeout={bound}) as client:
        client.sendall(b"x")
        print(client.recv(10), flush=True)
    stop()
    server.server_close()

def after_main(function):
    threading.main_thread().join()
    function()

server, serve, stop = {way}({name!r}, {handler})
threading.Thread(target=after_main, args=(ask,)).start()
threading.Thread(target=after_main, args=(serve,)).start()
"""

SERVERS = [
    ("compat_server", "TCPServer", "Legacy"),
    ("compat_server", "TCPServer", "Coroutine"),
    ("compat_server", "GreenletTCPServer", "Legacy"),
    ("one_request", "TCPServer", "Legacy"),
    ("one_request", "TCPServer", "Coroutine"),
    ("native_server", "TCPServer", "Coroutine"),
    ("native_server", "GreenletTCPServer", "Legacy"),
]
if sys.version_info[:2] != (3, 12):
    # Python 3.12 itself starts no thread and forks no child any more.
    SERVERS += [
        (way, name, "Legacy")
        for way in ("compat_server", "one_request", "native_server")
        for name in ("ThreadingTCPServer", "ForkingTCPServer")
    ]


@pytest.mark.parametrize("loop", LOOP_NAMES)
@pytest.mark.parametrize(("way", "name", "handler"), SERVERS)
def test_a_server_starts_and_serves(
    way: str, name: str, handler: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", loop)
    program = PROGRAM
    for field, value in (("way", way), ("name!r", repr(name)), ("handler", handler)):
        program = program.replace("{" + field + "}", value)
    done = subprocess.run(
        [sys.executable, "-c", program.replace("{bound}", str(BOUND))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * BOUND,
    )
    if "Greenlet" in name and sys.version_info[:2] == (3, 12):
        # That no watchdog can be started.
        assert "can't create new thread" in done.stderr
    else:
        assert done.stderr == ""
    assert done.stdout == "b'x'\n"

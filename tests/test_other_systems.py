"""What somebody gets on a system that lacks fork, Unix sockets or a loop that watches sockets."""

from __future__ import annotations

import subprocess
import sys

# What Windows does not have, taken away before the first import; its default loop, by
# its one property that matters here.
ELSEWHERE = """
import asyncio, os, socket, sys
# asyncio's own socket pair needs it, so it is put back after the import.
family = socket.AF_UNIX
del socket.AF_UNIX
for name in ("fork", "pidfd_open"):
    if hasattr(os, name):
        delattr(os, name)

class Loop(asyncio.SelectorEventLoop):
    def add_reader(self, fd, callback, *args):
        raise NotImplementedError

import aiosocketserver
socket.AF_UNIX = family

class Handler(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        pass

async def main():
    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()

missing = [n for n in ("ForkingMixIn", "UnixStreamServer") if hasattr(aiosocketserver, n)]
assert not missing, missing
with asyncio.Runner(loop_factory=Loop) as runner:
    runner.run(main())
"""


def test_a_loop_that_cannot_watch_sockets_gets_one_clear_error() -> None:
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.stderr.splitlines()[-1] == (
        "RuntimeError: Loop cannot watch sockets (it has no add_reader): "
        "use a selector event loop, or uvloop"
    )


COMPAT_ELSEWHERE = """
import asyncio, os, socket
family = socket.AF_UNIX
del socket.AF_UNIX, os.fork

class Loop(asyncio.SelectorEventLoop):
    def add_reader(self, fd, callback, *args):
        raise NotImplementedError

import socketserver
from aiosocketserver import compat
socket.AF_UNIX = family

assert sorted(compat.__all__) == sorted(socketserver.__all__), compat.__all__
missing = [n for n in ("ForkingMixIn", "UnixStreamServer") if hasattr(compat, n)]
assert not missing, missing

class Server(compat.ThreadingTCPServer):
    loop_factory = Loop

with Server(("127.0.0.1", 0), compat.BaseRequestHandler) as server:
    server.serve_forever()
"""


def test_compat_has_what_socketserver_has_there_and_tells_of_the_loop() -> None:
    result = subprocess.run(
        [sys.executable, "-c", COMPAT_ELSEWHERE],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stderr.splitlines()[-1] == (
        "RuntimeError: Loop cannot watch sockets (it has no add_reader): "
        "use a selector event loop, or uvloop"
    )

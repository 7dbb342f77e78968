"""A process that may have four threads or processes, or memory for them, and a dozen clients."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

CLIENTS = 12

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")

# Its handlers answer when standard input ends, so that until then each keeps its thread.
SERVER = """
import asyncio, contextlib, logging, os, resource, select, signal, socketserver, sys, threading
import aiosocketserver
from aiosocketserver import compat

package, kind, loop, limited = sys.argv[1:]
signal.alarm(60)
logging.basicConfig(format="%(message)s")

def limit():
    if limited == "memory":
        threading.stack_size(8 << 20)
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (28 << 20),) * 2)
    elif os.getuid() == 0:
        # A user of its own, because root has no such limit, and others have processes.
        os.setuid(100_000 + os.getpid())
        resource.setrlimit(resource.RLIMIT_NPROC, (4, 4))
    else:
        # Whose own processes would count, so that no number is the right one.
        start, fork = threading.Thread.start, os.fork
        def start_one(self):
            if threading.active_count() >= 4:
                raise RuntimeError("can't start new thread")
            start(self)
        def fork_one():
            if len(server.active_children or ()) >= 3:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return fork()
        threading.Thread.start, os.fork = start_one, fork_one

def answer(handler):
    select.select([0], [], [])
    if isinstance(handler.request, tuple):
        handler.request[1].sendto(handler.request[0], handler.client_address)
    else:
        handler.request.sendall(handler.request.recv(100))

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        answer(self)

class Coroutine(aiosocketserver.BaseRequestHandler):
    async def handle(self):
        await self.server.run_in_thread(select.select, [0], [], [])
        await self.request.sendall(await self.request.recv(100))

module = aiosocketserver if package == "native" else compat
server_class = getattr(module, "TCPServer" if kind == "run_in_thread" else kind)
server_class.request_queue_size = 100
server = server_class(("127.0.0.1", 0), Coroutine if kind == "run_in_thread" else Handler)

async def serve():
    async with server:
        await server.start_serving()
        limit()
        print(server.server_address[1], flush=True)
        await server.serve_forever()

if package == "compat":
    server.loop_factory = loop
    limit()
    print(server.server_address[1], flush=True)
    server.serve_forever()
elif loop == "uvloop":
    import uvloop
    uvloop.run(serve())
else:
    asyncio.run(serve())
"""


@contextlib.contextmanager
def clients_of(port: int, kind: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(type=kind)) for _ in range(CLIENTS)]
        for number, client in enumerate(clients):
            client.settimeout(30)
            client.connect(("127.0.0.1", port))
            client.sendall(b"%d" % number)
        yield clients


@pytest.mark.parametrize(
    ("package", "kind", "loop", "limited"),
    [
        ("native", "ThreadingTCPServer", "asyncio", "processes"),
        ("native", "ThreadingTCPServer", "uvloop", "memory"),
        ("native", "ThreadingUDPServer", "uvloop", "processes"),
        ("native", "ForkingTCPServer", "asyncio", "processes"),
        ("native", "ForkingUDPServer", "uvloop", "processes"),
        ("native", "run_in_thread", "asyncio", "processes"),
        ("compat", "ThreadingTCPServer", "asyncio", "memory"),
        ("compat", "ThreadingUDPServer", "uvloop", "processes"),
        ("compat", "ForkingTCPServer", "uvloop", "processes"),
        ("compat", "run_in_thread", "uvloop", "processes"),
    ],
)
def test_all_are_served_in_the_end_and_one_line_is_logged(
    package: str, kind: str, loop: str, limited: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, package, kind, loop, limited],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        port = int(process.stdout.readline())
        sock_kind = socket.SOCK_DGRAM if "UDP" in kind else socket.SOCK_STREAM
        with clients_of(port, sock_kind) as clients:
            line = process.stderr.readline()
            process.stdin.close()
            process.stdin = None
            for number, client in enumerate(clients):
                assert client.recv(100) == b"%d" % number
                # A child waits for that.
                client.close()
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=20)
    reason = "Resource temporarily" if "Forking" in kind else "can't start new thread"
    assert reason in line
    assert line.endswith(" wait\n")
    assert rest == ""

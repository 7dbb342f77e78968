"""A process with 64 descriptors, and 200 clients."""

import errno
import socket
import subprocess
import sys
import time

import pytest

SERVER = """
import asyncio, logging, resource, sys
import aiosocketserver

logging.basicConfig()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

class Echo(aiosocketserver.StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(line)

async def main():
    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Echo) as server:
        await server.start_serving()
        print(server.server_address[1], flush=True)
        await server.serve_forever()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_NOFILE as Linux has it")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_all_are_served_in_the_end_and_the_processor_is_idle_meanwhile(loop: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, loop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    clients: list[socket.socket] = []
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(200)]
        # As many as there are descriptors for are served, and then it is short of them.
        clients[0].sendall(b"x\n")
        assert clients[0].recv(2) == b"x\n"
        # The clock of another process, as clock_getcpuclockid(3) makes its number.
        clock = (~process.pid << 3) | 2
        time.sleep(0.5)
        before = time.clock_gettime(clock)
        time.sleep(2)
        assert time.clock_gettime(clock) - before < 0.2
        for number, client in enumerate(clients):
            client.sendall(b"%03d\n" % number)
        for number, client in enumerate(clients):
            assert client.recv(4) == b"%03d\n" % number
            client.close()
    finally:
        for client in clients:
            client.close()
        process.terminate()
        _, log = process.communicate(timeout=20)
    # One line for the shortage, however many had to wait.
    assert len(log.splitlines()) == 1, log
    assert "accepting is paused, and goes on as soon as it can" in log
    assert f"(errno {errno.EMFILE})" in log

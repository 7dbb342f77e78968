"""A service that was started without standard input, output or error."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deploy_support import APPLICATION, ROOT, receive_all

PROGRAM = """
import sys
import aiosocketserver
from application import Echo
code = aiosocketserver.run(Echo, "unix://socket", workers=int(sys.argv[1]), access_log="text")
sys.exit(code)
"""


def connected(path: Path, process: "subprocess.Popen[bytes]") -> socket.socket:
    """A connection, as soon as there is somebody: nobody tells that it serves."""
    while True:
        assert process.poll() is None
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            time.sleep(0.01)
        else:
            return sock


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def places(pid: int) -> dict[int, str]:
    """What the standard descriptors of a process are."""
    return {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)}


@pytest.mark.parametrize("how", ["command", "program"])
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_it_serves_and_ends_well(closed: str, workers: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text(
        APPLICATION + "\nprint('imported')\nprint('imported', file=sys.stderr)\n"
    )
    (tmp_path / "program.py").write_text(PROGRAM)
    path = tmp_path / "socket"
    command = ["-m", "aiosocketserver", "serve", "application:Echo", "--bind", f"unix://{path}"]
    command += ["--workers", workers, "--access-log", "text"]
    process = subprocess.Popen(
        [
            *("/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable),
            *(command if how == "command" else ["program.py", workers]),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        with connected(path, process) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
            children = children_of(process.pid)
            while len(children) < (2 if workers == "2" else 0):
                time.sleep(0.01)
                children = children_of(process.pid)
            for pid in (process.pid, *children):
                found = places(pid)
                for number, redirection in enumerate(("<&-", ">&-", "2>&-")):
                    missing = redirection in closed.split() or not number
                    assert (found[number] == "/dev/null") is missing, found
            client.shutdown(socket.SHUT_WR)
            # Nothing else was written into it.
            assert receive_all(client) == b""
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert b"Traceback" not in output + errors
        assert not path.exists()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_socket_that_is_passed_as_standard_output_is_for_clients_only(
    workers: str, tmp_path: Path
) -> None:
    """As inetd passes one on: what handlers print does not go there, and programs do not get it."""
    (tmp_path / "prints.py").write_text(
        "import os, sys\n"
        "from application import StreamRequestHandler\n"
        "class Prints(StreamRequestHandler):\n"
        "    async def handle(self):\n"
        "        print('printed', flush=True)\n"
        "        os.system('echo started')\n"
        "        await self.wfile.write(os.readlink('/proc/self/fd/1').encode())\n"
    )
    (tmp_path / "application.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "aiosocketserver", "serve", "prints:Prints"),
                *("--bind", "fd://1", "--workers", workers),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=listener.fileno(),
            stderr=subprocess.PIPE,
        )
        try:
            with socket.create_connection(listener.getsockname(), 20) as client:
                assert receive_all(client) == b"/dev/null"
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 0, errors
            assert b"Traceback" not in errors
        finally:
            process.kill()
            process.communicate()

"""Behind a real HAProxy: the PROXY protocol, and restarts that lose nothing."""

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.deploy_support import Command, receive_all, serving_application
from tests.tls_support import Certificates

APPLICATION = """
import os
import aiosocketserver

class Tells(aiosocketserver.StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            header = aiosocketserver.proxy_header()
            answer = f"{self.client_address} {header.version} {os.getpid()}\\n"
            await self.wfile.write(answer.encode())
"""

PROXY = ("--proxy-protocol", "required", "--proxy-trusted", "127.0.0.0/8")


# Of this process alone: nobody else takes a port there while a service is stopped.
_PID = os.getpid()
HOST = f"127.{_PID >> 16 & 0x7F | 0x80}.{_PID >> 8 & 0xFF}.{_PID & 0xFF}"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def haproxy(program: str, folder: Path, listeners: str) -> Generator[None]:
    """HAProxy with these `listen` sections, when it accepts on their ports."""
    settings = (
        "global\n  maxconn 1000\n"
        "defaults\n  mode tcp\n  timeout connect 20s\n  timeout client 60s\n  timeout server 60s\n"
        # By default a check has as long as there is between two: a busy machine's servers would
        # all be down.
        "  timeout check 20s\n"
        "  retries 3\n  option redispatch 1\n"
    )
    (folder / "haproxy.cfg").write_text(settings + listeners)
    process = subprocess.Popen(
        [program, "-db", "-f", "haproxy.cfg"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in listeners.splitlines():
            if line.strip().startswith("bind"):
                until_accepts(int(line.rpartition(":")[2]), process)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=20)


def until_accepts(port: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection((HOST, port)).close()
            return
        time.sleep(0.01)


def served(folder: Path, *arguments: str) -> contextlib.AbstractContextManager[Command]:
    (folder / "tells.py").write_text(APPLICATION)
    return serving_application(folder, "tells:Tells", *arguments, *PROXY)


@pytest.fixture
def program(require_program: Callable[[str], str]) -> str:
    # Debian's is not on every user's PATH.
    return shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin") or require_program("haproxy")


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("option", "version"), [("send-proxy", "1"), ("send-proxy-v2", "2")])
def test_the_client_is_the_real_one(
    option: str, version: str, workers: str, program: str, tmp_path: Path
) -> None:
    certificates = Certificates.make(tmp_path)
    context = certificates.client_context()
    tls = ("--certfile", str(certificates.certfile), "--keyfile", str(certificates.keyfile))
    binds = ("--bind", "tcp://127.0.0.1:0", "--bind", "tls://127.0.0.1:0", "--workers", workers)
    with served(tmp_path, *binds, *tls) as command:
        plain, secured = free_port(), free_port()
        listeners = "".join(
            f"listen l{port}\n  bind {HOST}:{port}\n  server s 127.0.0.1:{behind} {option}\n"
            for port, behind in zip((plain, secured), command.ports, strict=True)
        )
        with haproxy(program, tmp_path, listeners):
            with socket.create_connection((HOST, plain), 20) as sock:
                sock.sendall(b"?\n")
                answer = sock.recv(200).decode()
                assert answer.startswith(f"{sock.getsockname()} {version} ")
            with socket.create_connection((HOST, secured), 20) as sock:
                address = sock.getsockname()
                with context.wrap_socket(sock, server_hostname="127.0.0.1") as tls_sock:
                    tls_sock.sendall(b"?\n")
                    assert tls_sock.recv(200).decode().startswith(f"{address} {version} ")
        assert command.end() == 0


@pytest.mark.timeout(150)
def test_a_restart_under_load_loses_nothing(program: str, tmp_path: Path) -> None:
    """Two services; each is drained and started again while the clients go on."""
    ports = [free_port() for _ in range(2)]
    health = [free_port() for _ in range(2)]
    front = free_port()
    servers = "".join(
        f"  server s{port} {HOST}:{port} send-proxy-v2 check port {check} "
        "inter 100ms fall 1 rise 1\n"
        for port, check in zip(ports, health, strict=True)
    )
    listener = (
        f"listen echo\n  bind {HOST}:{front}\n  option httpchk GET /readyz\n"
        f"  balance roundrobin\n{servers}"
    )

    def start(number: int) -> contextlib.AbstractContextManager[Command]:
        return served(
            tmp_path,
            *("--bind", f"tcp://{HOST}:{ports[number]}", "--drain-delay", "2"),
            *("--metrics", f"{HOST}:{health[number]}"),
        )

    answers: Counter[str] = Counter()
    failures: list[str] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            try:
                with socket.create_connection((HOST, front), 20) as sock:
                    sock.sendall(b"?\n")
                    sock.shutdown(socket.SHUT_WR)
                    answer = receive_all(sock).decode().split()
                answers[answer[-1]] += 1
            except (OSError, IndexError) as error:
                failures.append(repr(error))

    with contextlib.ExitStack() as stack:
        commands = [stack.enter_context(start(number)) for number in range(2)]
        stack.enter_context(haproxy(program, tmp_path, listener))
        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            for number in range(2):
                assert commands[number].end() == 0
                commands[number] = stack.enter_context(start(number))
                pid = str(commands[number].process.pid)
                # A check of the old one may be waiting still, for 20 s.
                deadline = time.monotonic() + 50
                while not answers[pid]:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert len(answers) == 4
        assert sum(answers.values()) > 200

"""How a service ends and reloads: real signals, to real processes."""

import signal
import socket
import time
from pathlib import Path
from typing import cast

import pytest

from tests.deploy_support import ask, receive_all, refused, serving_application
from tests.tls_support import Certificates

BIND = ("--bind", "tcp://127.0.0.1:0")


def begun(port: int) -> socket.socket:
    """A client whose request has begun."""
    sock = socket.create_connection(("127.0.0.1", port), 20)
    assert sock.recv(6) == b"begun\n"
    return sock


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(
    number: signal.Signals, workers: str, loop: str, tmp_path: Path
) -> None:
    arguments = ("application:Waits", *BIND, "--workers", workers, "--loop", loop)
    with serving_application(tmp_path, *arguments) as command:
        assert f", {loop}, " in command.lines[-1]
        with begun(command.ports[0]) as client:
            command.process.send_signal(number)
            assert receive_all(client) == b"drained\n"
        assert command.wait() == 0
        assert any("drained: 1 requests finished, 0 cut" in line for line in command.lines)


def wait_for_sleep(process: int) -> int:
    """Wait until the main thread waits in a system call; how many threads there are."""
    status = Path(f"/proc/{process}/status")
    while "State:\tS" not in (text := status.read_text()):
        time.sleep(0.01)
    return int(text.partition("Threads:")[2].split()[0])


# The main thread is not interrupted in its wait by what another thread is sent. That looks as a
# signal that comes just before it waits.
ELSEWHERE = """
import signal, socketserver, threading
class Signals(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"begun\\n")
        signal.pthread_kill(threading.get_ident(), int(self.rfile.readline()))
        self.rfile.read()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_does_not_interrupt_the_wait(
    number: signal.Signals, loop: str, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    arguments = ("elsewhere:Signals", *BIND, "--loop", loop)
    with serving_application(tmp_path, *arguments) as command:
        with begun(command.ports[0]) as client:
            wait_for_sleep(command.process.pid)
            client.sendall(b"%d\n" % number)
            command.until(f"{number.name}: draining")
        assert command.wait() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("handler", ["Stuck", "Blocks", "LegacyStuck"])
def test_the_second_signal_ends_it_at_once(handler: str, workers: str, tmp_path: Path) -> None:
    arguments = (f"application:{handler}", *BIND, "--workers", workers, "--shutdown-timeout", "30")
    with serving_application(tmp_path, *arguments) as command, begun(command.ports[0]):
        if handler != "Blocks" or workers == "2":
            command.process.send_signal(signal.SIGINT)
            command.until("SIGINT: draining")
        else:
            # Its loop tells nothing. A signal that came just before the call that blocks would
            # be seen after it, and one on the heels of another by another thread.
            threads = wait_for_sleep(command.process.pid)
            command.process.send_signal(signal.SIGINT)
            while wait_for_sleep(command.process.pid) == threads:
                time.sleep(0.01)
        command.process.send_signal(signal.SIGTERM)
        assert command.wait() == 128 + signal.SIGTERM


def test_a_thread_without_a_job_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "slow_threads.py").write_text(
        "import time\n"
        "from aiosocketserver import BaseRequestHandler\n"
        "from aiosocketserver.requests.threads import _Worker\n"
        "run = _Worker.run\n"
        "def run_slowly(self):\n"
        "    run(self)\n"
        "    time.sleep(0.2)\n"
        "_Worker.run = run_slowly\n"
        "class Handler(BaseRequestHandler):\n"
        "    async def handle(self):\n"
        "        await self.request.sendall(await self.server.run_in_thread(bytes, 1))\n"
    )
    with serving_application(tmp_path, "slow_threads:Handler", *BIND) as command:
        assert ask(command.ports[0]) == b"\0"
        assert command.end() == 0
        assert not any("left behind" in line for line in command.lines)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_thread_that_is_stuck_keeps_nobody(workers: str, tmp_path: Path) -> None:
    arguments = (
        "application:LegacyStuck",
        *BIND,
        "--workers",
        workers,
        "--shutdown-timeout",
        "0.1",
    )
    with serving_application(tmp_path, *arguments) as command, begun(command.ports[0]):
        assert command.end() == 0
        assert any("1 abandoned" in line for line in command.lines)


def test_sys_exit_in_a_handler_is_the_exit_code(tmp_path: Path) -> None:
    with serving_application(tmp_path, "application:Exits", *BIND) as command:
        assert ask(command.ports[0]) == b""
        assert command.wait() == 7


def test_the_paths_of_unix_sockets_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    for workers in ("1", "2"):
        arguments = ("application:Echo", "--bind", f"unix://{path}", "--workers", workers)
        with serving_application(tmp_path, *arguments, "--unix-mode", "600") as command:
            assert path.stat().st_mode & 0o777 == 0o600
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(b"hello\n")
                assert client.recv(6) == b"hello\n"
            assert command.end() == 0
        assert not path.exists()


def test_a_taken_address_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        (line,) = refused(tmp_path, "application:Echo", "--bind", bind)
    assert line == (
        f"aiosocketserver: cannot bind to {bind}: somebody else listens there already (EADDRINUSE)"
    )


@pytest.mark.parametrize("target", ["application:Echo", "moves:Echo"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_brings_the_new_certificate(workers: str, target: str, tmp_path: Path) -> None:
    (tmp_path / "moves.py").write_text("import os\nfrom application import *\nos.chdir('/')\n")
    certificates = Certificates.make(tmp_path)
    arguments = (
        *(target, "--bind", "tls://127.0.0.1:0", "--workers", workers),
        *("--certfile", certificates.certfile.name, "--keyfile", certificates.keyfile.name),
    )

    def names(port: int) -> set[str]:
        """Whom the certificate is for."""
        with socket.create_connection(("127.0.0.1", port), 10) as sock:
            context = certificates.client_context()
            with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                certificate = secured.getpeercert()
                assert certificate is not None
                alternatives = cast("list[tuple[str, str]]", certificate["subjectAltName"])
                return {name for _, name in alternatives}

    with serving_application(tmp_path, *arguments) as command:
        assert names(command.ports[0]) == {"127.0.0.1"}
        certificates.renew("new.example")
        command.process.send_signal(signal.SIGHUP)
        command.until("reloaded")
        assert names(command.ports[0]) == {"127.0.0.1", "new.example"}
        # One that does not load leaves the old one in use.
        certificates.keyfile.write_text("rubbish")
        command.process.send_signal(signal.SIGHUP)
        command.until("was not reloaded|cannot start, the others go on")
        assert names(command.ports[0]) == {"127.0.0.1", "new.example"}
        assert command.end() == 0


def test_a_certificate_that_does_not_load_is_told(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    certificates.keyfile.write_text("rubbish")
    lines = refused(
        tmp_path,
        *("application:Echo", "--bind", "tls://127.0.0.1:0"),
        *("--certfile", str(certificates.certfile), "--keyfile", str(certificates.keyfile)),
    )
    (line,) = lines
    assert "tls://127.0.0.1:" in line
    assert f"while loading {certificates.certfile}, {certificates.keyfile}" in line


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("target", ["Echo", "Legacy"])
def test_a_drain_does_not_wait_for_idle_clients(
    target: str, workers: str, loop: str, tmp_path: Path
) -> None:
    arguments = (f"application:{target}", *BIND, "--workers", workers, "--loop", loop)
    # Without a limit: it would not end if it waited.
    with serving_application(tmp_path, *arguments, "--shutdown-timeout", "none") as command:
        address = "127.0.0.1", command.ports[0]
        with socket.create_connection(address, 20) as one, socket.create_connection(address, 20):
            one.sendall(b"x\n")
            assert one.recv(100).endswith(b"x\n")
            assert command.end() == 0
        assert any(" 0 cut, 0 abandoned" in line for line in command.lines), command.lines


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_drain_waits_for_idle_clients_when_it_is_told_to(workers: str, tmp_path: Path) -> None:
    arguments = ("application:Echo", *BIND, "--workers", workers, "--no-end-when-draining")
    with serving_application(tmp_path, *arguments, "--shutdown-timeout", "0.7") as command:
        with socket.create_connection(("127.0.0.1", command.ports[0]), 20) as client:
            client.sendall(b"x\n")
            assert client.recv(2) == b"x\n"
            assert command.end() == 0
        assert any(" 1 cut, 0 abandoned" in line for line in command.lines), command.lines


def test_a_drain_refuses_who_comes_too_late(tmp_path: Path) -> None:
    """At once, and not with a reset when the drain ends."""
    arguments = ("application:Stuck", *BIND, "--shutdown-timeout", "20")
    with serving_application(tmp_path, *arguments) as command, begun(command.ports[0]):
        command.process.send_signal(signal.SIGTERM)
        command.until("SIGTERM: draining")
        deadline = time.monotonic() + 20
        while True:
            assert time.monotonic() < deadline
            try:
                socket.create_connection(("127.0.0.1", command.ports[0]), 20).close()
            except ConnectionRefusedError:
                break
            except ConnectionResetError:
                # In the backlog just when that was closed.
                continue


def test_a_drain_can_be_delayed(tmp_path: Path) -> None:
    arguments = ("application:Echo", *BIND, "--drain-delay", "0.5")
    with serving_application(tmp_path, *arguments) as command:
        begin = time.monotonic()
        command.process.send_signal(signal.SIGTERM)
        command.until("SIGTERM: draining")
        assert ask(command.ports[0], b"a\n") == b"a\n"
        assert command.wait() == 0
        assert time.monotonic() - begin > 0.5

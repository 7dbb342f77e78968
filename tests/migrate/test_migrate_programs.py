"""Migrated programs run, and answer the same clients with the same bytes.

The programs are those of tests/compat/test_compat_texts.py, the examples that have a legacy
form, and some that use what such programs use.
"""

import ast
import contextlib
import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.compat.test_compat_texts import ECHO, FORKED, IMPORTS, MENU, STANDARD, THREADED, UPPER
from tests.compat_support import BOUND, receive_all
from tests.deploy_support import ROOT, Command, ask
from tests.example_support import LOOPS
from tests.migrate_support import after, migrated

pytestmark = pytest.mark.parametrize("loop", LOOPS)

LINES = """
class Lines(SocketServer.StreamRequestHandler):
    timeout = 20

    def setup(self):
        super().setup()
        self.log = []
        self.reply("welcome", self.wfile)

    def reply(self, text, output, *, end="\\n"):
        output.write((text + end).encode())

    def ask(self):
        self.reply("name?", self.wfile, end=" ")
        return self.rfile.readline().strip().decode()

    def handle(self):
        conn, (host, port, *_) = self.request, self.client_address
        def twice(text):
            conn.sendall(text + text)
        self.log.append(self.ask())
        for line in self.rfile:
            if line == b"block\\n":
                twice(self.rfile.read(3))
            elif line == b"end\\n":
                break
            else:
                self.log.append(line.decode().strip())
        self.wfile.writelines([each.encode() + b"," for each in self.log])

    def finish(self):
        self.reply("bye", self.wfile)
        socketserver.StreamRequestHandler.finish(self)

class Server(SocketServer.ThreadingMixIn, SocketServer.TCPServer):
    daemon_threads = True
    allow_reuse_address = True

with Server(("127.0.0.1", 0), Lines) as server:
    print(server.server_address, flush=True)
    server.serve_forever()
"""

STOPS = """
class Stops(SocketServer.BaseRequestHandler):
    def handle(self):
        while chunk := self.request.recv(4):
            self.request.sendall(chunk)
            if chunk == b"stop":
                self.request.shutdown(socket.SHUT_WR)
                threading.Thread(target=self.server.shutdown).start()
                return
        self.request.close()

server = SocketServer.TCPServer(("127.0.0.1", 0), Stops)
print(server.server_address, flush=True)
server.serve_forever()
server.server_close()
print("stopped")
"""

DATAGRAMS = """
class Pair(SocketServer.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data.upper(), self.client_address)
        self.request[1].sendto(self.request[0] * 2, self.client_address)

class Files(SocketServer.DatagramRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())
        self.socket.sendto(self.packet * 2, self.client_address)

servers = [SocketServer.UDPServer(("127.0.0.1", 0), Pair),
           SocketServer.ThreadingUDPServer(("127.0.0.1", 0), Files)]
print([server.server_address for server in servers], flush=True)
threads = [threading.Thread(target=server.serve_forever) for server in servers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def program(text: str, standard: str = STANDARD) -> tuple[str, str]:
    """A program before and after the migration."""
    before = "import socketserver\n" + IMPORTS + standard + textwrap.dedent(text)
    return before, after(before)


def environment(loop: str) -> dict[str, str]:
    # A forked child drops what it has printed into a buffer, as socketserver's does.
    always = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **always, "AIOSOCKETSERVER_LOOP": loop}


def without_numbers(text: str) -> str:
    """Threads and processes are others after the migration, which is noted."""
    return re.sub(r"Thread-\d+ \(\w+\)|\b\d{3,}\b", "N", text)


@contextlib.contextmanager
def served(source: str, loop: str, folder: Path) -> Generator["subprocess.Popen[str]"]:
    """The program as a process, which tells its address and is killed in the end."""
    path = folder / "program.py"
    path.write_text(source)
    with subprocess.Popen(
        [sys.executable, "-u", path],
        env=environment(loop),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def address(process: "subprocess.Popen[str]") -> tuple[str, int]:
    assert process.stdout is not None
    host, port = ast.literal_eval(process.stdout.readline())
    return host, port


def said(source: str, loop: str, folder: Path, talk: Callable[[tuple[str, int]], object]) -> object:
    """What clients of the program hear, two after one another, and what it prints."""
    with served(source, loop, folder) as process:
        name = address(process)
        heard = [talk(name) for _ in range(2)]
        process.kill()
        assert process.stdout is not None
        return heard, process.stdout.read()


def conversation(
    *texts: bytes, last: bytes = b"", waits: bool = False
) -> Callable[[tuple[str, int]], object]:
    """Says each text when the answer to the one before has come, then `last`, and ends."""

    def talk(name: tuple[str, int]) -> list[bytes]:
        with socket.create_connection(name, BOUND) as client:
            heard = [client.recv(1024)] if waits else []
            for text in texts:
                client.sendall(text)
                heard.append(client.recv(1024))
            client.sendall(last)
            client.shutdown(socket.SHUT_WR)
            return [*heard, receive_all(client)]

    return talk


def at_once(text: bytes) -> Callable[[tuple[str, int]], object]:
    """Says all of it, and listens until the server ends."""

    def talk(name: tuple[str, int]) -> bytes:
        with socket.create_connection(name, BOUND) as client:
            client.sendall(text)
            return receive_all(client)

    return talk


@pytest.mark.parametrize(
    ("text", "talk"),
    [
        (MENU, conversation(b"help", b"12", last=b"leave", waits=True)),
        (ECHO, conversation(b"12345", b"ab")),
        (UPPER, conversation(b"hello\n", b"there\n")),
        (LINES, at_once(b"me\none\ntwo\nblock\nabcthree\nend\n")),
        (LINES, at_once(b"me\n" + b"x" * 60_000 + b"\nend\n")),
        (STOPS, conversation(b"one", b"four")),
    ],
    ids=["menu", "echo", "upper", "lines", "a long line", "recv"],
)
def test_a_server_says_the_same(
    text: str, talk: Callable[[tuple[str, int]], object], loop: str, tmp_path: Path
) -> None:
    before, migrated_text = program(text)
    assert "async def handle" in migrated_text
    expected = said(before, loop, tmp_path, talk)
    assert said(migrated_text, loop, tmp_path, talk) == expected


@pytest.mark.parametrize("text", [THREADED, FORKED], ids=["threaded", "forked"])
def test_a_program_with_its_clients_prints_the_same(text: str, loop: str, tmp_path: Path) -> None:
    def output(source: str) -> str:
        (tmp_path / "program.py").write_text(source)
        done = subprocess.run(
            [sys.executable, tmp_path / "program.py"],
            env=environment(loop),
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        # The server of `forked` prints in another process, at another time.
        return "".join(sorted(without_numbers(done.stdout).splitlines(keepends=True)))

    before, migrated_text = program(text)
    expected = output(before)
    assert ("the desk: " if text is THREADED else "takes home: ") in expected
    assert output(migrated_text) == expected


def test_a_migrated_handler_stops_its_server(loop: str, tmp_path: Path) -> None:
    for source in program(STOPS):
        with served(source, loop, tmp_path) as process:
            assert conversation(b"stop")(address(process)) == [b"stop", b""]
            assert process.wait(BOUND) == 0
            assert process.stdout is not None
            assert process.stdout.read() == "stopped\n"


def test_datagrams_are_the_same(loop: str, tmp_path: Path) -> None:
    answers = []
    for source in program(DATAGRAMS):
        with served(source, loop, tmp_path) as process:
            assert process.stdout is not None
            names = ast.literal_eval(process.stdout.readline())
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.settimeout(BOUND)
                for name in names:
                    client.sendto(b"one\ntwo\n", name)
                    answers.append([client.recv(1024) for _ in range(2)])
    assert answers[: len(answers) // 2] == answers[len(answers) // 2 :]
    twice, upper = b"one\ntwo\n" * 2, b"ONE\nTWO\n"
    assert answers[:2] == [[upper, twice], [twice, upper]]


@contextlib.contextmanager
def example(name: str, *arguments: str, loop: str, folder: Path) -> Generator[Command]:
    """An example, migrated, as a process that ends well."""
    source = (ROOT / "examples" / f"{name}.py").read_bytes()
    migration = migrated(source)
    assert all(report.converted for report in migration.reports)
    assert migration.source != source
    path = folder / f"{name}.py"
    path.write_bytes(migration.source)
    hidden = "import sys\nsys.modules['uvloop'] = None\n" if loop == "asyncio" else ""
    (folder / "sitecustomize.py").write_text(hidden)
    command = Command(
        subprocess.Popen(
            [sys.executable, path, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    try:
        assert f", {loop}, " in command.until("serving .* on ").string
        yield command
        assert command.end() == 0, command.lines
    finally:
        command.close()


@pytest.mark.parametrize("way", ["threads", "children"])
def test_upper(way: str, loop: str, tmp_path: Path) -> None:
    arguments = ("--in", way, "tcp://127.0.0.1:0")
    with example("upper", *arguments, loop=loop, folder=tmp_path) as upper:
        heard = conversation(b"one\n", b"two\n")(("127.0.0.1", upper.ports[0]))
        assert heard == [b"ONE\n", b"TWO\n", b""]
    arguments = ("--in", way, "udp://127.0.0.1:0")
    with (
        example("upper", *arguments, loop=loop, folder=tmp_path) as upper,
        socket.socket(type=socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(BOUND)
        client.sendto(b"one", ("127.0.0.1", upper.ports[0]))
        assert client.recv(100) == b"ONE"


def test_legacy_threads(loop: str, tmp_path: Path) -> None:
    with example("legacy_threads", "0", "0", loop=loop, folder=tmp_path) as command:
        for port in command.ports:
            assert conversation(b"one\n")(("127.0.0.1", port)) == [b"MainThread: one\n", b""]


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("forking_echo", (), rb"process \d+ heard: one\n"),
        ("threading_echo", (), rb"MainThread: one\n"),
        ("select_echo", ("blocking",), rb"one\n"),
        ("time_server", ("--model", "threads"), rb"[\w: ]+ \| one\n"),
    ],
)
def test_examples_that_run_serves(
    name: str, arguments: tuple[str, ...], answer: bytes, loop: str, tmp_path: Path
) -> None:
    arguments += ("tcp://127.0.0.1:0",)
    with example(name, *arguments, loop=loop, folder=tmp_path) as command:
        assert re.fullmatch(answer, ask(command.ports[0], b"one\n"))


def test_call_centre(loop: str, tmp_path: Path) -> None:
    source = (ROOT / "examples" / "call_centre.py").read_bytes()
    migration = migrated(source)
    assert [report.converted for report in migration.reports] == [True]
    answers = []
    for each in (source, migration.source):
        (tmp_path / "call_centre.py").write_bytes(each)
        command = Command(
            subprocess.Popen(
                [sys.executable, "call_centre.py", "--legacy", "0"],
                cwd=tmp_path,
                env=environment(loop),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        try:
            command.until("serving .* on ")
            answers.append(ask(command.ports[0], b"0\n12\nexit"))
        finally:
            command.close()
    assert answers[0] == answers[1]
    assert answers[0].count(b"\n") == 6

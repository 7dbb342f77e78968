"""Programs of the kind that tutorials of socketserver have: they print what they print.

They make the calls that such programs make: a server class with a mix-in, a handler that calls
the socket, clients beside it or in the same file. Run as they are, after the one changed line, and
without a changed line on the command line of compat.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 30

THREADED = """
class Clerk(SocketServer.BaseRequestHandler):
    def handle(self):
        question = self.request.recv(1024)
        worker = threading.current_thread()
        self.request.sendall(b"%s answers %s" % (worker.name.encode(), question))

class Desk(SocketServer.ThreadingMixIn, SocketServer.TCPServer):
    pass

def visit(host, number, question):
    visitor = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    visitor.connect((host, number))
    try:
        visitor.sendall(question)
        print("the desk: %s" % visitor.recv(1024))
    finally:
        visitor.close()

if __name__ == "__main__":
    desk = Desk(("localhost", 0), Clerk)
    host, number = desk.server_address
    opening = threading.Thread(target=desk.serve_forever)
    opening.daemon = True
    opening.start()
    print("open in %s" % opening.name)
    for question in (b"where is it?", b"how far?", b"how long?"):
        visit(host, number, question)
    desk.shutdown()
"""

FORKED = """
class Copyist(SocketServer.BaseRequestHandler):
    def handle(self):
        page = self.request.recv(1024)
        copy = b"%d copies %s" % (os.getpid(), page)
        print("a copy: %s" % copy)
        print("it leaves the workshop")
        self.request.send(b"here, " + copy)

class Workshop(SocketServer.ForkingMixIn, SocketServer.TCPServer):
    pass

class Customer:
    def __init__(self, host, number):
        self.counter = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.counter.connect((host, number))

    def order(self):
        print("%s brings a page" % os.getpid())
        self.counter.send(b"a page of a book")
        print("%s takes home: %s" % (os.getpid(), self.counter.recv(1024)))

    def leave(self):
        self.counter.close()

if __name__ == "__main__":
    workshop = Workshop(("localhost", 0), Copyist)
    host, number = workshop.server_address
    opening = threading.Thread(target=workshop.serve_forever)
    opening.daemon = True
    opening.start()
    print("open in process %s" % os.getpid())
    customers = [Customer(host, number), Customer(host, number)]
    for customer in customers:
        customer.order()
    workshop.shutdown()
    for customer in customers:
        customer.leave()
    workshop.socket.close()
"""

MENU = """
class Kiosk(SocketServer.BaseRequestHandler):
    def handle(self):
        window = self.request
        window.sendall("tickets: a number of zones, or help".encode())
        open_for_them = True
        while open_for_them:
            choice = window.recv(1024)
            if choice == b"leave":
                open_for_them = False
            elif choice == b"help":
                window.sendall(b"there are nine zones")
            else:
                window.sendall(b"no such zone")

if __name__ == "__main__":
    kiosk = SocketServer.ThreadingTCPServer(("127.0.0.1", 0), Kiosk)
    print(kiosk.server_address)
    kiosk.serve_forever()
"""

ECHO = """
class Parrot(SocketServer.BaseRequestHandler):
    def handle(self):
        perch = self.request
        while True:
            words = perch.recv(5)
            if not words:
                break
            perch.sendall(words)

if __name__ == "__main__":
    cage = SocketServer.ThreadingTCPServer(("127.0.0.1", 0), Parrot)
    print(cage.server_address)
    cage.serve_forever()
"""

UPPER = """
class Shout(SocketServer.BaseRequestHandler):
    def handle(self):
        while True:
            try:
                self.whisper = self.request.recv(1024).strip()
                if not self.whisper:
                    break
                print("somebody whispers:")
                print(self.whisper)
                self.request.send(self.whisper.upper())
            except ConnectionResetError as reason:
                print("nobody is there any more:", reason)
                break

if __name__ == "__main__":
    hall = SocketServer.ThreadingTCPServer(("127.0.0.1", 0), Shout)
    print(hall.server_address)
    print("the hall is open".center(40, "-"))
    hall.serve_forever()
"""

IMPORTS = "import os, socket, threading\n"
STANDARD = "import socketserver as SocketServer\n"

# How a program starts: its import, and the arguments of Python before it.
WAYS: dict[str, tuple[str, list[str]]] = {
    "one changed line": ("from aiosocketserver import compat as SocketServer\n", []),
    "no changed line": (STANDARD, ["-m", "aiosocketserver.compat"]),
    "Python 2's name": ("import SocketServer\n", ["-m", "aiosocketserver.compat"]),
}


@pytest.fixture(params=["asyncio", "uvloop"])
def environment(request: pytest.FixtureRequest) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**environment, "PYTHONPATH": str(ROOT), "AIOSOCKETSERVER_LOOP": str(request.param)}


def without_numbers(text: str) -> str:
    """Process ids and ports differ each time; the numbers of threads do not."""
    return re.sub(r"\b(?<!Thread-)\d{3,}\b", "N", text)


def output(program: str, way: tuple[str, list[str]], environment: dict[str, str], flag: str) -> str:
    """What a program that ends by itself prints."""
    folder = Path(environment["FOLDER"])
    (folder / "program.py").write_text(IMPORTS + way[0] + program)
    done = subprocess.run(
        [sys.executable, *flag.split(), *way[1], "program.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return without_numbers(done.stdout)


def conversation(
    program: str, way: tuple[str, list[str]], environment: dict[str, str], said: list[bytes]
) -> str:
    """What a server prints, and what its clients get, until it is killed."""
    folder = Path(environment["FOLDER"])
    (folder / "program.py").write_text(IMPORTS + way[0] + program)
    client = (
        "import socket, sys\n"
        "said = eval(sys.argv[2])\n"
        "with socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20) as sock:\n"
        "    if sys.argv[3] == 'waits': print(sock.recv(1024))\n"
        "    for text in said:\n"
        "        sock.sendall(text)\n"
        "        print(sock.recv(1024))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-u", *way[1], "program.py"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline()
            port = address.split()[1].rstrip(")")
            greeting = "waits" if program is MENU else "begins"
            heard = "".join(
                subprocess.run(
                    [sys.executable, "-c", client, port, repr(said), greeting],
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT,
                    check=True,
                ).stdout
                for _ in range(2)
            )
        finally:
            server.kill()
        return heard + server.stdout.read()


@pytest.mark.parametrize("flag", ["", "-u"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", [THREADED, FORKED], ids=["threaded", "forked"])
def test_program_with_its_clients_prints_the_same(
    program: str, way: str, flag: str, environment: dict[str, str], tmp_path: Path
) -> None:
    environment["FOLDER"] = str(tmp_path)
    expected = output(program, (STANDARD, []), environment, flag)
    assert ("the desk: " if program is THREADED else "takes home: ") in expected
    if program is THREADED:
        assert "Thread-4 (process_request_thread) answers how long?" in expected
    assert output(program, WAYS[way], environment, flag) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (MENU, [b"help", b"12", b"leave"]),
        (ECHO, [b"12345", b"ab"]),
        (UPPER, [b"hello\n", b"there\n"]),
    ],
    ids=["menu", "echo", "upper"],
)
def test_server_and_its_clients_say_the_same(
    program: str, said: list[bytes], way: str, environment: dict[str, str], tmp_path: Path
) -> None:
    environment["FOLDER"] = str(tmp_path)
    expected = conversation(program, (STANDARD, []), environment, said)
    assert expected.count("b'") >= 2 * len(said)
    assert conversation(program, WAYS[way], environment, said) == expected

"""The programs of the texts that this project grew from: they print what they print.

In Python 3, and otherwise in the form in which such texts have them: a server class with a mix-in,
a handler that calls the socket, clients beside it or in the same file. Run as they are, after the
one changed line, and without a changed line on the command line of compat.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 30

THREADED = """
class ThreadedHandler(SocketServer.BaseRequestHandler):
    def handle(self):
        data = self.request.recv(1024)
        current_thread = threading.current_thread()
        self.request.sendall(b"%s: %s" % (current_thread.name.encode(), data))

class ThreadedServer(SocketServer.ThreadingMixIn, SocketServer.TCPServer):
    pass

def client(ip, port, message):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.connect((ip, port))
    try:
        sock.sendall(message)
        print("Client received: %s" % sock.recv(1024))
    finally:
        sock.close()

if __name__ == "__main__":
    server = ThreadedServer(("localhost", 0), ThreadedHandler)
    ip, port = server.server_address
    server_thread = threading.Thread(target=server.serve_forever)
    server_thread.daemon = True
    server_thread.start()
    print("Server loop running on thread: %s" % server_thread.name)
    client(ip, port, b"Hello from Client 1")
    client(ip, port, b"Hello from Client 2")
    client(ip, port, b"Hello from Client 3")
    server.shutdown()
"""

FORKED = """
class ForkedHandler(SocketServer.BaseRequestHandler):
    def handle(self):
        data = self.request.recv(1024)
        response = b"%d: %s" % (os.getpid(), data)
        print("Server sending response: %s" % response)
        print("Server is about to send it")
        self.request.send(b"received " + response)

class ForkedServer(SocketServer.ForkingMixIn, SocketServer.TCPServer):
    pass

class Client:
    def __init__(self, ip, port):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.connect((ip, port))

    def run(self):
        print("PID %s sends a message" % os.getpid())
        self.sock.send(b"Hello echo server!")
        print("PID %s received: %s" % (os.getpid(), self.sock.recv(1024)))

    def shutdown(self):
        self.sock.close()

if __name__ == "__main__":
    server = ForkedServer(("localhost", 0), ForkedHandler)
    ip, port = server.server_address
    server_thread = threading.Thread(target=server.serve_forever)
    server_thread.daemon = True
    server_thread.start()
    print("Server loop running PID: %s" % os.getpid())
    clients = [Client(ip, port), Client(ip, port)]
    for client in clients:
        client.run()
    server.shutdown()
    for client in clients:
        client.shutdown()
    server.socket.close()
"""

MENU = """
class Menu(SocketServer.BaseRequestHandler):
    def handle(self):
        conn = self.request
        conn.sendall("welcome: 1 to go on, 0 for somebody".encode())
        flag = True
        while flag:
            data = conn.recv(1024)
            if data == b"exit":
                flag = False
            elif data == b"0":
                conn.sendall(b"this may be recorded")
            else:
                conn.sendall(b"once more, please")

if __name__ == "__main__":
    server = SocketServer.ThreadingTCPServer(("127.0.0.1", 0), Menu)
    print(server.server_address)
    server.serve_forever()
"""

ECHO = """
class Echo(SocketServer.BaseRequestHandler):
    def handle(self):
        conn = self.request
        while True:
            recv_data = conn.recv(5)
            if not recv_data:
                break
            conn.sendall(recv_data)

if __name__ == "__main__":
    server = SocketServer.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    print(server.server_address)
    server.serve_forever()
"""

UPPER = """
class Upper(SocketServer.BaseRequestHandler):
    def handle(self):
        while True:
            try:
                self.data = self.request.recv(1024).strip()
                if not self.data:
                    break
                print("a client wrote:")
                print(self.data)
                self.request.send(self.data.upper())
            except ConnectionResetError as e:
                print("a client has gone", e)
                break

if __name__ == "__main__":
    server = SocketServer.ThreadingTCPServer(("127.0.0.1", 0), Upper)
    print(server.server_address)
    print("server has started".center(70, "="))
    server.serve_forever()
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
    assert "received: " in expected
    if program is THREADED:
        assert "Thread-4 (process_request_thread): Hello from Client 3" in expected
    assert output(program, WAYS[way], environment, flag) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (MENU, [b"0", b"7", b"exit"]),
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

"""What the tests of compat share. Small: a test should be readable on its own."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

# Seconds that nothing here takes: who waits longer waits in vain.
BOUND = 20.0

# The values of AIOSOCKETSERVER_LOOP.
LOOP_NAMES = ("asyncio", "uvloop")


@contextlib.contextmanager
def serving(server: Any, poll_interval: float = 0.5) -> Iterator[Any]:
    """Have the server serve in a thread of its own; shut down and close it at the end.

    What `serve_forever` raises there is raised here.
    """
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(poll_interval)
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join(BOUND)
        server.server_close()
        assert not thread.is_alive(), "serve_forever() did not end"
    if raised:
        raise raised[0]


def connect(address: Any) -> socket.socket:
    """A connected client of the stream server at `address`, whose calls are bounded."""
    if isinstance(address, tuple):
        return socket.create_connection(address[:2], timeout=BOUND)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(BOUND)
    client.connect(address)
    return client


def receive_all(client: socket.socket) -> bytes:
    """What comes until the connection ends."""
    received = bytearray()
    while block := client.recv(64 * 1024):
        received += block
    return bytes(received)


def ask(address: Any, question: bytes = b"") -> bytes:
    """The whole answer of the stream server at `address` to a client that then finishes."""
    with connect(address) as client:
        client.sendall(question)
        client.shutdown(socket.SHUT_WR)
        return receive_all(client)

"""What the tests of compat share. Small: a test should be readable on its own."""

import asyncio
import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiosocketserver import compat

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


@contextlib.contextmanager
def in_thread(function: Callable[[], object]) -> Iterator[None]:
    """Call it in a thread, which ends before the block does; what it raises is raised here."""
    failures = []

    def call() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        thread.join(BOUND)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def inside_a_loop(function: Callable[[], object]) -> Callable[[], None]:
    """To call it in a coroutine, and see that the loop around it is still the running one."""

    async def call() -> None:
        function()
        await asyncio.sleep(0)

    return lambda: asyncio.run(call())


@contextlib.contextmanager
def shut_down(server: Any) -> Iterator[None]:
    """Shut it down at the end."""
    try:
        yield
    finally:
        server.shutdown()


@contextlib.contextmanager
def served(server: Any, way: str) -> Iterator[None]:
    """Have the server serve in a thread, in one of the ways that there are."""
    match way:
        case "handle_request":
            with in_thread(server.handle_request):
                yield
        case "handle_request inside a loop":
            with in_thread(inside_a_loop(server.handle_request)):
                yield
        case "serve_forever":
            with in_thread(server.serve_forever), shut_down(server):
                yield
        case "serve_forever inside a loop":
            with in_thread(inside_a_loop(server.serve_forever)), shut_down(server):
                yield
        case "serve_async":
            with in_thread(lambda: asyncio.run(server.serve_async())), shut_down(server):
                yield


# What runs a test's server: the measure, and compat on each loop.
IMPLEMENTATIONS = ("socketserver", *LOOP_NAMES)


def implementation(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The standard library's module, or compat on the loop of that name."""
    if name == "socketserver":
        return socketserver
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", name)
    return compat

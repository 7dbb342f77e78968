"""Datagrams of Unix clients whose path cannot be answered: the client's fault, in one line."""

import errno
import logging
import os
import socket
import socketserver
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    DatagramRequestHandler,
    ForkingUnixDatagramServer,
    ThreadingUDPServer,
    ThreadingUnixDatagramServer,
    UDPServer,
    UnixDatagramServer,
)
from tests.support import until


class Answers(BaseRequestHandler):
    async def handle(self) -> None:
        data, sock = self.request
        await sock.sendto(data, self.client_address)


class InFinish(DatagramRequestHandler):
    async def handle(self) -> None:
        self.wfile.write(b"x")


class LegacyAnswers(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(data, self.client_address)


class LegacyInFinish(socketserver.DatagramRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"x")


SERVERS: dict[str, tuple[Any, Any]] = {
    "coroutine": (UnixDatagramServer, Answers),
    "coroutine, in finish": (UnixDatagramServer, InFinish),
    "thread": (ThreadingUnixDatagramServer, LegacyAnswers),
    "thread, in finish": (ThreadingUnixDatagramServer, LegacyInFinish),
    "child": (ForkingUnixDatagramServer, LegacyAnswers),
    "child, in finish": (ForkingUnixDatagramServer, LegacyInFinish),
}


def another_type(kind: int) -> Callable[[Path], object]:
    def make(path: Path) -> object:
        path.unlink()
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(str(path))
        return sock

    return make


def a_file(path: Path) -> object:
    path.unlink()
    path.touch()
    return None


def a_folder(path: Path) -> object:
    path.unlink()
    path.mkdir()
    return None


def links_in_a_circle(path: Path) -> object:
    path.unlink()
    path.symlink_to(path)
    return None


def a_link_to_nowhere(path: Path) -> object:
    path.unlink()
    path.symlink_to("nowhere")
    return None


def below_a_file(path: Path) -> object:
    path.unlink()
    path.parent.rmdir()
    path.parent.touch()
    return None


def of_another_peer(path: Path) -> object:
    path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    peer = path.parent / "peer"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(peer))
        sock.connect(str(peer))
    return sock


CHANGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "stale": lambda path: None,
    "stream": another_type(socket.SOCK_STREAM),
    "sequential": another_type(socket.SOCK_SEQPACKET),
    "file": a_file,
    "folder": a_folder,
    "circle": links_in_a_circle,
    "nowhere": a_link_to_nowhere,
    "below a file": below_a_file,
    "of another peer": of_another_peer,
}


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.INFO, "aiosocketserver")
    return lambda: [r for r in caplog.records if r.levelno > logging.INFO]


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_the_senders_path_has_become(
    kind: str,
    change: str,
    tmp_path: Path,
    errors: Callable[[], list[logging.LogRecord]],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server_class, handler = SERVERS[kind]
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "client"
    async with server_class(str(tmp_path / "s"), handler) as server:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(str(path))
            client.sendto(b"x", str(tmp_path / "s"))
        kept = CHANGES[change](path)
        await server.start_serving()
        await until(lambda: server.statistics.finished)
        assert server.statistics.handlers_failed == 0
        if "child" not in kind:
            # What happens in a child is logged and counted there.
            assert server.statistics.clients_vanished == 1
            assert "was lost" in caplog.text
    assert errors() == []
    assert "Traceback" not in capfd.readouterr().err
    if isinstance(kept, socket.socket):
        kept.close()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EPIPE])
async def test_errors_that_a_test_cannot_make(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that root may not enter (NFS), a client that has shut its socket down."""

    def fail(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    class Failing(socket.socket):
        sendto = fail

    async with UnixDatagramServer(str(tmp_path / "s"), Answers) as server:
        made = server.socket
        server.socket = Failing(fileno=made.detach())
        await server.start_serving()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(str(tmp_path / "client"))
            client.sendto(b"x", str(tmp_path / "s"))
            await until(lambda: server.statistics.finished)
    assert server.statistics.clients_vanished == 1


# --- what is the handler's ---


class TooLong(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request[1].sendto(bytes(10_000_000), self.client_address)


class LegacyTooLong(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(bytes(10_000_000), self.client_address)


class LegacyDatabase(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as database:
            database.connect("/nowhere/database")


@pytest.mark.parametrize(
    ("server_class", "handler"),
    [
        (UnixDatagramServer, TooLong),
        (ThreadingUnixDatagramServer, LegacyTooLong),
        # The client is there: it is something else that is not.
        (ThreadingUnixDatagramServer, LegacyDatabase),
    ],
)
async def test_what_the_handler_does_wrong_is_its_failure(
    server_class: Any, handler: Any, tmp_path: Path
) -> None:
    async with server_class(str(tmp_path / "s"), handler) as server:
        await server.start_serving()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(str(tmp_path / "client"))
            client.sendto(b"x", str(tmp_path / "s"))
            await until(lambda: server.statistics.finished)
    assert server.statistics.handlers_failed == 1
    assert server.statistics.clients_vanished == 0


# --- forged on UDP ---


@pytest.mark.parametrize(
    ("server_class", "handler"),
    [
        (UDPServer, Answers),
        (ThreadingUDPServer, LegacyAnswers),
        (ThreadingUDPServer, LegacyInFinish),
    ],
)
async def test_nobody_is_at_port_0(
    server_class: Any, handler: Any, errors: Callable[[], list[logging.LogRecord]]
) -> None:
    class Forged(server_class):  # type: ignore[misc]
        def get_request(self) -> Any:
            request, _ = super().get_request()
            return request, ("127.0.0.1", 0)

    server: aiosocketserver.UDPServer
    async with Forged(("127.0.0.1", 0), handler) as server:
        await server.start_serving()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"x", server.server_address)
            await until(lambda: server.statistics.finished)
    assert server.statistics.clients_vanished == 1
    assert errors() == []

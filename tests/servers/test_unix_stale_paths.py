"""A Unix path where a socket lies already: stale or alive, of every type and in every state."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, UnixDatagramServer, UnixStreamServer


class Nothing(BaseRequestHandler):
    async def handle(self) -> None:
        pass


class SequentialServer(UnixStreamServer):
    """One that programs make by themselves."""

    socket_type = socket.SOCK_SEQPACKET


SERVERS: list[Any] = [UnixStreamServer, UnixDatagramServer, SequentialServer]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def bound(path: Path, kind: int, stack: ExitStack) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
    sock.bind(str(path))
    return sock


def starting(kind: int) -> Callable[[Path, ExitStack], None]:
    def make(path: Path, stack: ExitStack) -> None:
        bound(path, kind, stack)

    return make


def with_full_backlog(kind: int) -> Callable[[Path, ExitStack], None]:
    def make(path: Path, stack: ExitStack) -> None:
        bound(path, kind, stack).listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX, kind)).connect(str(path))

    return make


def with_full_buffer(path: Path, stack: ExitStack) -> None:
    bound(path, socket.SOCK_DGRAM, stack)
    client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    client.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            client.sendto(b"x", str(path))


def with_a_peer(path: Path, stack: ExitStack) -> None:
    # Nobody but that one may connect to it, which is EPERM.
    peer = bound(path.with_name("peer"), socket.SOCK_DGRAM, stack)
    bound(path, socket.SOCK_DGRAM, stack).connect(peer.getsockname())


def shut_down(path: Path, stack: ExitStack) -> None:
    sock = bound(path, socket.SOCK_STREAM, stack)
    sock.listen()
    sock.shutdown(socket.SHUT_RDWR)


ALIVE: dict[str, Callable[[Path, ExitStack], None]] = {
    "stream that starts": starting(socket.SOCK_STREAM),
    "sequential that starts": starting(socket.SOCK_SEQPACKET),
    "datagram": starting(socket.SOCK_DGRAM),
    "stream with a full backlog": with_full_backlog(socket.SOCK_STREAM),
    "sequential with a full backlog": with_full_backlog(socket.SOCK_SEQPACKET),
    "datagram with a full buffer": with_full_buffer,
    "datagram with a peer": with_a_peer,
    "stream that is shut down": shut_down,
}


@pytest.mark.parametrize("server_class", SERVERS)
@pytest.mark.parametrize("state", ALIVE)
def test_one_that_is_open_is_left_alone(
    server_class: Any, state: str, tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "s"
    ALIVE[state](path, stack)
    before = os.lstat(path)
    with pytest.raises(OSError, match="another server is listening") as raised:
        server_class(path, Nothing)
    assert raised.value.errno == errno.EADDRINUSE
    assert raised.value.filename == str(path)
    assert os.path.samestat(os.lstat(path), before)


@pytest.mark.parametrize("server_class", SERVERS)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_one_that_nobody_has_open_is_replaced_whatever_its_type(
    server_class: Any, kind: int, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))
    server = server_class(path, Nothing)
    with socket.socket(socket.AF_UNIX, server_class.socket_type) as client:
        client.connect(str(path))
    server.server_close()
    assert not path.exists()


@pytest.mark.parametrize("server_class", SERVERS)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_live_server_has_no_client_and_no_datagram_of_the_question(
    server_class: Any, kind: int, tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "s"
    sock = bound(path, kind, stack)
    if kind == socket.SOCK_STREAM:
        sock.listen()
    with pytest.raises(OSError, match="another server is listening"):
        server_class(path, Nothing)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.accept() if kind == socket.SOCK_STREAM else sock.recv(1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("is_open", [True, False])
def test_one_that_cannot_be_asked_is_left_alone_with_an_error_that_tells_so(
    is_open: bool, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    sock = bound(path, socket.SOCK_STREAM, stack)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    if not is_open:
        sock.close()
    monkeypatch.chdir(tmp_path)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises(PermissionError, match="may not connect to") as raised:
                UnixStreamServer("s", Nothing)
            assert raised.value.filename == "s"
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert path.is_socket()

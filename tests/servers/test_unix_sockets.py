"""What only Unix sockets have: permissions of the path, who the peer is, passed descriptors."""

import asyncio
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, TCPServer, UnixDatagramServer, UnixStreamServer
from tests.support import ask, client_of, connected, tcp_pair

SERVERS = [UnixStreamServer, UnixDatagramServer]


class Nothing(BaseRequestHandler):
    async def handle(self) -> None:
        pass


@pytest.fixture(params=[0o022, 0o077, 0o000], ids="umask-{:o}".format)
def umask(request: pytest.FixtureRequest) -> Generator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- permissions ---


@pytest.mark.parametrize("server_class", SERVERS)
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o700, 0o000])
def test_the_mode_is_what_was_asked_for_whatever_the_umask(
    server_class: type[TCPServer], mode: int, umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    server = server_class(str(path), Nothing, unix_mode=mode)
    try:
        assert mode_of(path) == mode
        assert os.umask(umask) == umask
    finally:
        server.server_close()
    assert not path.exists()


def test_without_a_mode_the_umask_decides(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = UnixStreamServer(str(path), Nothing)
    assert mode_of(path) == 0o777 & ~umask
    server.server_close()


def test_nobody_else_can_reach_it_before_it_has_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    modes = []
    chown = os.chown

    def record(*args: Any, **options: Any) -> None:
        modes.append(mode_of(path))
        chown(*args, **options)

    monkeypatch.setattr(os, "chown", record)
    before = os.umask(0)
    try:
        server = UnixStreamServer(str(path), Nothing, unix_mode=0o660, unix_owner=os.getuid())
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert mode_of(path) == 0o660
    server.server_close()


@pytest.mark.parametrize("by_name", [True, False])
def test_owner_and_group(by_name: bool, tmp_path: Path) -> None:
    path = tmp_path / "s"
    # Root may give it to anybody.
    uid, gid = (1, 1) if os.getuid() == 0 else (os.getuid(), os.getgid())
    owner = pwd.getpwuid(uid).pw_name if by_name else uid
    group = grp.getgrgid(gid).gr_name if by_name else gid
    server = UnixStreamServer(str(path), Nothing, unix_owner=owner, unix_group=group)
    assert (path.stat().st_uid, path.stat().st_gid) == (uid, gid)
    server.server_close()
    assert not path.exists()


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("unix_owner", "no-such-user", "unix_owner: there is no user 'no-such-user'"),
        ("unix_group", "no-such-group", "unix_group: there is no group 'no-such-group'"),
    ],
)
def test_an_unknown_name_is_told_and_nothing_is_left(
    option: str, value: str, complaint: str, tmp_path: Path
) -> None:
    class Server(UnixStreamServer):
        pass

    setattr(Server, option, value)
    with pytest.raises(LookupError, match=complaint):
        Server(str(tmp_path / "s"), Nothing)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_given_away_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        UnixStreamServer(str(tmp_path / "s"), Nothing, unix_group=0)
    assert list(tmp_path.iterdir()) == []


def test_an_abstract_name_and_a_port_have_no_permissions() -> None:
    with pytest.raises(ValueError, match="are for a Unix socket with a path"):
        UnixStreamServer("\0aiosocketserver-no-mode", Nothing, unix_mode=0o600)
    with pytest.raises(ValueError, match="are for a Unix socket with a path"):
        TCPServer(("127.0.0.1", 0), Nothing, unix_owner="root")


@pytest.mark.parametrize(
    ("option", "value"),
    [("unix_mode", 0o1777), ("unix_mode", "660"), ("unix_owner", ""), ("unix_group", -1)],
)
def test_wrong_values_are_told(option: str, value: object, tmp_path: Path) -> None:
    class Server(UnixStreamServer):
        pass

    setattr(Server, option, value)
    with pytest.raises(ValueError, match=rf"Server\.{option} must be .* and is {value!r}"):
        Server(str(tmp_path / "s"), Nothing)


# --- who the peer is ---


async def test_peer_credentials(tmp_path: Path) -> None:
    class Tell(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(repr(tuple(self.request.peer_credentials())).encode())

    async with UnixStreamServer(str(tmp_path / "s"), Tell) as server:
        await server.start_serving()
        told = await ask(server.server_address)
    assert told.decode() == repr((os.getpid(), os.getuid(), os.getgid()))


async def test_a_tcp_socket_has_no_peer_credentials() -> None:
    async with connected(tcp_pair()) as (connection, _):
        with pytest.raises(OSError, match="only a Unix socket") as caught:
            connection.peer_credentials()
        assert caught.value.errno == errno.EOPNOTSUPP


# --- descriptors ---


@pytest.fixture
def pipe() -> Generator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_descriptors_are_received(pipe: tuple[int, int], tmp_path: Path) -> None:
    reading, writing = pipe

    class Take(BaseRequestHandler):
        async def handle(self) -> None:
            data, descriptors, flags, _ = await self.request.recv_fds(100, 4)
            assert (data, len(descriptors), flags & socket.MSG_CTRUNC) == (b"take", 2, 0)
            for descriptor in descriptors:
                assert not os.get_inheritable(descriptor)
                os.write(descriptor, b"x")
                os.close(descriptor)
            await self.request.sendall(b"done")

    async with UnixStreamServer(str(tmp_path / "s"), Take) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            socket.send_fds(client.sock, [b"take"], [writing, writing])
            assert await client.receive(4) == b"done"
    assert os.read(reading, 10) == b"xx"


async def test_descriptors_are_sent(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    async with connected() as (connection, peer):
        assert await connection.send_fds([b"ta", b"ke"], [writing]) == 4
        data, (received,), _, _ = socket.recv_fds(peer.sock, 100, 4)
        assert data == b"take"
        os.write(received, b"x")
        os.close(received)
    assert os.read(reading, 10) == b"x"


async def test_a_cancelled_wait_for_descriptors_loses_none(pipe: tuple[int, int]) -> None:
    async with connected() as (connection, peer):
        waiting = asyncio.create_task(connection.recv_fds(100, 4))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is receiving"):
            await connection.recv_fds(100, 4)
        socket.send_fds(peer.sock, [b"x"], [pipe[0]])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        data, (received,), _, _ = await connection.recv_fds(100, 4)
        os.close(received)
        assert data == b"x"


async def test_messages_with_descriptors_come_one_by_one(pipe: tuple[int, int]) -> None:
    async with connected() as (connection, peer):
        for n in range(3):
            socket.send_fds(peer.sock, [b"%d" % n], [pipe[0]])
        for n in range(3):
            data, (received,), _, _ = await asyncio.wait_for(connection.recv_fds(100, 4), 10)
            os.close(received)
            assert data == b"%d" % n
        peer.finish()
        assert (await connection.recv_fds(100, 4))[:2] == (b"", [])


async def test_more_descriptors_than_asked_for_are_told(pipe: tuple[int, int]) -> None:
    async with connected() as (connection, peer):
        before = len(os.listdir("/proc/self/fd"))
        socket.send_fds(peer.sock, [b"x"], [pipe[0]] * 5)
        data, received, flags, _ = await connection.recv_fds(100, 1)
        assert data == b"x"
        assert flags & socket.MSG_CTRUNC
        for descriptor in received:
            os.close(descriptor)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_a_broken_connection_is_told_as_the_clients(tmp_path: Path) -> None:
    async with connected() as (connection, peer):
        await connection.sendall(b"never read")
        peer.sock.close()
        with pytest.raises(ConnectionResetError) as caught:
            await connection.recv_fds(100, 4)
        assert caught.value.__dict__["_aiosocketserver_origin"] is connection


async def test_recv_fds_does_not_wait_with_a_timeout_of_zero() -> None:
    async with connected() as (connection, _):
        connection.settimeout(0)
        with pytest.raises(BlockingIOError):
            await connection.recv_fds(100, 4)
        connection.settimeout(0.01)
        with pytest.raises(TimeoutError):
            await connection.recv_fds(100, 4)

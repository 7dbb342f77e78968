"""Where a service listens: what binds say, and what is opened for them."""

import errno
import os
import socket
from pathlib import Path

import pytest

from aiosocketserver.deploy.binds import (
    Bind,
    BindError,
    OpenSocket,
    SocketOptions,
    open_for_workers,
    open_sockets,
    systemd_sockets,
)
from tests.port_support import free_port


def opened(*binds: str, options: SocketOptions = SocketOptions()) -> list[OpenSocket]:  # noqa: B008
    return open_sockets([Bind.parse(bind) for bind in binds], options)


def close(sockets: list[OpenSocket]) -> None:
    for each in sockets:
        each.close()


@pytest.mark.parametrize(
    ("text", "kind", "encrypted", "host", "port"),
    [
        ("tcp://127.0.0.1:80", "tcp", False, "127.0.0.1", 80),
        ("tcp://[::1]:80", "tcp", False, "::1", 80),
        ("tcp://*:80", "tcp", False, "", 80),
        ("tcp://:80", "tcp", False, "", 80),
        ("tcp://localhost:0", "tcp", False, "localhost", 0),
        ("tls://localhost:443", "tcp", True, "localhost", 443),
        ("tls+tcp://localhost:443", "tcp", True, "localhost", 443),
        ("udp://localhost:53", "udp", False, "localhost", 53),
    ],
)
def test_addresses(text: str, kind: str, encrypted: bool, host: str, port: int) -> None:
    assert Bind.parse(text) == Bind(text, kind, encrypted, host, port)


def test_paths_descriptors_and_names() -> None:
    assert Bind.parse("unix:///run/x.sock").path == "/run/x.sock"
    assert Bind.parse("unix://x.sock").path == "x.sock"
    assert Bind.parse("unix://@name").path == "\0name"
    assert Bind.parse("unix-dgram:///run/x").kind == "unix-dgram"
    assert Bind.parse("tls+unix:///run/x").encrypted
    assert Bind.parse("fd://3").descriptor == 3
    assert Bind.parse("systemd://").path == ""
    assert Bind.parse("tls+systemd://web").path == "web"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("127.0.0.1:80", "it has no scheme"),
        ("http://x:80", "the scheme 'http' is unknown"),
        ("://x:80", "the scheme '' is unknown"),
        ("tcp://127.0.0.1", "it has no port"),
        ("tcp://127.0.0.1:x", "x"),
        ("tcp://127.0.0.1:65536", "0-65535"),
        ("tcp://127.0.0.1:80/x", "there is something behind or before host and port"),
        ("tcp://me@127.0.0.1:80", "there is something behind or before host and port"),
        ("tcp://[::1:80", "Invalid IPv6 URL"),
        ("unix://", "it has no path"),
        ("fd://x", "'x' is no file descriptor"),
        ("fd://-1", "'-1' is no file descriptor"),
        ("tls+udp://x:80", "datagrams cannot be encrypted"),
        ("tls+unix-dgram:///x", "datagrams cannot be encrypted"),
    ],
)
def test_what_is_malformed_is_told_with_what_would_be_right(text: str, problem: str) -> None:
    with pytest.raises(BindError) as caught:
        Bind.parse(text)
    message = str(caught.value)
    assert message.startswith(f"cannot bind to {text!r}: ")
    assert problem in message
    assert "tcp://host:port, tls://host:port, udp://host:port, unix://path" in message


def test_all_addresses_have_the_same_port() -> None:
    for host in ("*", "localhost"):
        for kind in ("tcp", "udp"):
            sockets = opened(f"{kind}://{host}:0")
            try:
                assert len({each.address[1] for each in sockets}) == 1
                families = {each.sock.family for each in sockets}
                assert socket.AF_INET in families
                if host == "*" and socket.has_ipv6:
                    assert socket.AF_INET6 in families
            finally:
                close(sockets)


def test_a_port_that_is_free_for_one_address_only_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With port 0 the first address gets one that the second may not have."""
    port = free_port()
    taken = socket.create_server(("127.0.0.2", port))
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"127.0.0.{n}", 0)) for n in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
    bound: list[tuple[str, int]] = []

    class FirstTakesThat(socket.socket):
        def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
            if not bound:
                address = (address[0], port)
            bound.append(address)
            super().bind(address)

    monkeypatch.setattr("aiosocketserver.deploy.binds.socket.socket", FirstTakesThat)
    with taken:
        sockets = opened("tcp://both:0")
        try:
            assert bound[:2] == [("127.0.0.1", port), ("127.0.0.2", port)]
            assert len(bound) == 4
            assert sockets[0].address[1] == sockets[1].address[1] != port
        finally:
            close(sockets)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [("tcp", None, 1), ("tcp", False, 0), ("udp", None, 0), ("udp", True, 1)],
)
def test_addresses_in_time_wait_are_taken_as_asked(
    kind: str, given: bool | None, expected: int
) -> None:
    options = {} if given is None else {"allow_reuse_address": given}
    (each,) = opened(f"{kind}://127.0.0.1:0", options=SocketOptions.of(options))
    try:
        assert each.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == expected
    finally:
        each.close()


def test_ipv6_does_not_take_ipv4() -> None:
    (each,) = opened("tcp://[::1]:0")
    try:
        assert each.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        assert str(each) == f"tcp://[::1]:{each.address[1]}"
    finally:
        each.close()


def test_all_are_opened_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        free = opened("tcp://127.0.0.1:0")
        free_port = free[0].address[1]
        close(free)
        with pytest.raises(BindError, match=rf"tcp://127.0.0.1:{port}: .*EADDRINUSE") as caught:
            opened(f"tcp://127.0.0.1:{free_port}", f"tcp://127.0.0.1:{port}")
        assert isinstance(caught.value.__cause__, OSError)
    close(opened(f"tcp://127.0.0.1:{free_port}"))


@pytest.mark.parametrize(
    ("bind", "problem"),
    [
        ("tcp://192.0.2.1:0", r"this machine has no such address \(EADDRNOTAVAIL\)"),
        ("tcp://no-such-host.invalid:80", "the host is not known"),
        ("unix:///no/such/directory/x", "there is no folder '/no/such/directory'"),
        (f"unix:///{'x' * 200}", "may have 107 bytes, and has 201"),
        ("fd://999", "999 is not open"),
        ("systemd://", "systemd has passed no sockets to this process"),
    ],
)
def test_what_cannot_be_bound_is_told(bind: str, problem: str) -> None:
    with pytest.raises(BindError, match=problem):
        opened(bind)


def test_a_path_is_removed_at_the_end_if_it_is_still_ours(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = SocketOptions(unix_mode=0o600)
    for kind in ("unix", "unix-dgram"):
        (each,) = opened(f"{kind}://{path}", options=options)
        assert path.stat().st_mode & 0o777 == 0o600
        assert str(each) == f"{kind}://{path}"
        each.close()
        assert not path.exists()
    (each,) = opened(f"unix://{path}")
    path.unlink()
    path.write_text("somebody else's")
    each.close()
    assert path.read_text() == "somebody else's"


def test_abstract_names() -> None:
    (each,) = opened(f"unix://@aiosocketserver-test-{os.getpid()}")
    assert str(each) == f"unix://@aiosocketserver-test-{os.getpid()}"
    each.close()


def test_descriptors_are_taken_over(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.set_inheritable(True)
    number = listening.detach()
    (each,) = opened(f"tls+fd://{number}")
    assert each.sock.fileno() == number
    assert not each.sock.get_inheritable()
    assert str(each) == f"tls://127.0.0.1:{each.address[1]}"
    each.close()
    plain = socket.socket()
    file = (tmp_path / "file").open("w")
    with plain, file, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        for bind, problem in (
            (f"fd://{plain.fileno()}", "does not listen"),
            (f"fd://{file.fileno()}", "is no socket"),
            (f"tls+fd://{datagram.fileno()}", "is for datagrams"),
        ):
            with pytest.raises(BindError, match=problem):
                opened(bind)
        # They are still their owners'.
        assert plain.fileno() >= 0
        os.fstat(plain.fileno())


def test_workers_share_what_connections_come_on() -> None:
    binds = [Bind.parse("tcp://127.0.0.1:0"), Bind.parse("udp://127.0.0.1:0")]
    sockets = open_for_workers(binds, SocketOptions(), 2)
    try:
        (tcp, udp), (other_tcp, other_udp) = sockets
        assert tcp is other_tcp
        assert udp.address == other_udp.address
        assert udp.sock.fileno() != other_udp.sock.fileno()
    finally:
        for each in sockets:
            close(each)
    sockets = open_for_workers(binds[:1], SocketOptions(reuse_port=True), 3)
    try:
        assert len({each[0].sock.fileno() for each in sockets}) == 3
        assert len({each[0].address for each in sockets}) == 1
    finally:
        for each in sockets:
            close(each)


def test_sockets_of_systemd_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.setenv("LISTEN_FDNAMES", "web:chat")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    assert systemd_sockets() == {}
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert systemd_sockets() == {3: "web", 4: "chat"}
    with pytest.raises(BindError, match="systemd has passed only chat, web"):
        opened("systemd://other")
    monkeypatch.delenv("LISTEN_FDNAMES")
    assert systemd_sockets() == {3: "", 4: ""}


def test_an_address_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("aiosocketserver.deploy.binds.socket.socket", Forbidden)
    with pytest.raises(BindError, match=r"tcp://127.0.0.1:80: not allowed \(EACCES\)"):
        opened("tcp://127.0.0.1:80")

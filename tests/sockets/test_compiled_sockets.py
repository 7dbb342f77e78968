"""Sockets that the compiled core must not read behind the back of their own methods."""

import errno
import socket
from typing import Any

import pytest

from tests.support import connected


class Counted(socket.socket):
    """One whose own `send` is to be called."""

    calls = 0

    def send(self, *args: Any) -> int:
        self.calls += 1
        return super().send(*args)


async def test_the_methods_of_a_class_made_from_socket_are_called() -> None:
    ours, theirs = socket.socketpair()
    counted = Counted(fileno=ours.detach())
    async with connected((counted, theirs)) as (connection, peer):
        await connection.sendall(b"once")
        assert counted.calls == 1
        assert peer.sock.recv(10) == b"once"


async def test_a_descriptor_that_was_closed_behind_its_back_is_not_used() -> None:
    ours, theirs = socket.socketpair()
    async with connected((ours, theirs)) as (connection, peer):
        number = ours.fileno()
        ours.close()
        # The number goes to somebody else.
        other, others_peer = socket.socketpair()
        with other, others_peer:
            assert number in (other.fileno(), others_peer.fileno())
            others_peer.send(b"not yours")
            other.send(b"not yours")
            for call in (connection.sendall(b"lost"), connection.recv(10)):
                with pytest.raises(OSError) as caught:
                    await call
                assert caught.value.errno == errno.EBADF
            assert (other.recv(20), others_peer.recv(20)) == (b"not yours", b"not yours")
            assert peer.sock.recv(10) == b""

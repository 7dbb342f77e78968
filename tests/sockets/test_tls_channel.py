"""TLS in the place of a socket, against a model: any segmentation, sends that are given up."""

import contextlib
import socket
import ssl
from typing import Any, cast

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from aiosocketserver.sockets.send_queue import SendQueue
from aiosocketserver.sockets.tls_channel import TLSChannel
from aiosocketserver.sockets.tls_ending import ChannelEnd

AUTHORITY = trustme.CA()
SERVER = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
AUTHORITY.issue_cert("127.0.0.1").configure_cert(SERVER)
CLIENT = ssl.create_default_context()
AUTHORITY.configure_trust(CLIENT)


class Wire:
    """The socket of the server: takes and gives as many bytes as it is told."""

    family = socket.AF_UNIX

    def __init__(self) -> None:
        self.to_server = bytearray()
        self.to_client = bytearray()
        # How many bytes the next calls take or give; without any, they would block.
        self.room: list[int] = []
        self.segments: list[int] = []
        self.ended = False

    def recv(self, size: int) -> bytes:
        if not self.segments:
            if self.ended and not self.to_server:
                return b""
            raise BlockingIOError
        size = min(size, self.segments.pop(0))
        if not self.to_server:
            raise BlockingIOError
        data = bytes(self.to_server[:size])
        del self.to_server[:size]
        return data

    def send(self, data: Any) -> int:
        if not self.room:
            raise BlockingIOError
        data = bytes(data[: self.room.pop(0)])
        self.to_client += data
        return len(data)


class Talk:
    """A server's channel and its client, after the handshake."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.channel = TLSChannel(cast(Any, self.wire), SERVER)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = CLIENT.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        done = False
        while not done:
            self._step()
            done, said = self.channel.shake_hands(self._outgoing.read())
            self._incoming.write(said)
        self.channel.has_more = False
        self.received_by_client = bytearray()

    def _step(self) -> None:
        try:
            self.client.do_handshake()
        except ssl.SSLWantReadError:
            pass

    def client_says(self, data: bytes) -> None:
        if data:
            self.client.write(data)
        self.wire.to_server += self._outgoing.read()

    def client_reads(self) -> None:
        self._incoming.write(bytes(self.wire.to_client))
        self.wire.to_client.clear()
        try:
            while data := self.client.read(100_000):
                self.received_by_client += data
        except ssl.SSLWantReadError:
            pass

    def unblock(self) -> None:
        self.wire.room = [1 << 20] * 100


BLOCKS = st.binary(min_size=1, max_size=300).map(lambda b: b * 300) | st.binary(
    min_size=1, max_size=50
)
ROOM = st.lists(st.integers(1, 40_000), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(BLOCKS, ROOM, st.booleans()), min_size=1, max_size=8))
def test_what_is_sent_arrives_in_order_also_what_was_given_up(
    sends: list[tuple[bytes, list[int], bool]],
) -> None:
    """A sender that gives up has sent a prefix of its block; who comes next is untouched."""
    talk = Talk()
    # For each sender what it was told of, and all that it wanted to send.
    told: list[tuple[bytes, bytes]] = []
    for block, room, gives_up in sends:
        talk.wire.room = list(room)
        rest = block
        while rest:
            try:
                rest = rest[talk.channel.send(rest) :]
            except BlockingIOError:
                if gives_up:
                    talk.channel.disown()
                    break
                talk.wire.room.append(50_000)
        told.append((block[: len(block) - len(rest)], block))
    # What was left behind leaves before this.
    talk.unblock()
    assert talk.channel.send(b"the end") == 7
    talk.client_reads()
    received = bytes(talk.received_by_client)
    assert received.endswith(b"the end")
    matches = [b""]
    for sent, block in told:
        # At the least what was told of, and otherwise a block of 64 KiB more.
        more = {sent, block[: len(sent) + 64 * 1024]}
        matches = [m + part for m in matches for part in more if received.startswith(m + part)]
    assert any(m + b"the end" == received for m in matches)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(BLOCKS, min_size=1, max_size=6),
    st.lists(st.integers(1, 3000), min_size=1, max_size=50),
    st.lists(st.integers(1, 70_000), min_size=1, max_size=10),
)
def test_what_comes_is_received_however_it_is_cut(
    blocks: list[bytes], segments: list[int], sizes: list[int]
) -> None:
    talk = Talk()
    for block in blocks:
        talk.client_says(block)
    expected, received = b"".join(blocks), bytearray()
    turn = 0
    while len(received) < len(expected):
        if not talk.wire.segments:
            talk.wire.segments = [segments[turn % len(segments)]]
        size = sizes[turn % len(sizes)]
        turn += 1
        try:
            data = talk.channel.recv(size)
        except BlockingIOError:
            # Then there is nothing that it could have given.
            assert not talk.channel.has_more
            continue
        assert 0 < len(data) <= size
        received += data
    assert received == expected


def test_an_end_is_clean_only_when_it_was_said() -> None:
    for says_it in (True, False):
        talk = Talk()
        talk.client_says(b"last words")
        if says_it:
            with pytest.raises(ssl.SSLWantReadError):
                talk.client.unwrap()
            talk.client_says(b"")
        talk.wire.ended = True
        talk.wire.segments = [1 << 20]
        talk.unblock()
        assert talk.channel.recv(100) == b"last words"
        if says_it:
            assert talk.channel.recv(100) == b""
        else:
            for _ in range(2):
                with pytest.raises(ssl.SSLEOFError):
                    talk.channel.recv(100)


def test_data_that_was_decrypted_before_our_own_end_is_kept() -> None:
    talk = Talk()
    talk.unblock()
    talk.client_says(b"0123456789")
    talk.wire.segments = [1 << 20]
    assert talk.channel.recv(3) == b"012"
    talk.channel.say_end()
    assert talk.channel.has_more
    assert talk.channel.recv(4) == b"3456"
    assert talk.channel.recv(4) == b"789"
    talk.wire.segments = [1 << 20]
    with pytest.raises(BlockingIOError):
        talk.channel.recv(4)
    # And what comes afterwards.
    talk.client_says(b"more")
    talk.wire.segments = [1 << 20]
    assert talk.channel.recv(10) == b"more"


def test_garbage_after_the_handshake_is_an_error_each_time() -> None:
    talk = Talk()
    talk.wire.to_server += b"\x17\x03\x03\x00\x20" + bytes(32)
    talk.wire.segments = [1 << 20]
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            talk.channel.recv(100)


@pytest.mark.parametrize("rest", [b"", b"what was written"])
def test_last_words_are_what_is_left_and_the_end(rest: bytes) -> None:
    talk = Talk()
    queue = SendQueue()
    queue.append(b"x" * 1000)
    queue.append(rest)
    talk.wire.room = [10]
    with pytest.raises(BlockingIOError):
        queue.send(talk.channel.send)
    end = ChannelEnd(talk.channel, queue)
    while not talk.channel.has_ended:
        talk.wire.room = [100]
        with contextlib.suppress(BlockingIOError):
            end.send()
    talk.client_reads()
    assert talk.received_by_client == b"x" * 1000 + rest
    # The end has been said: reading gives nothing more, without an error.
    assert talk.client.read(1) == b""
    # What the client says until its own end is taken, and then the end is heard.
    talk.client_says(b"not yet")
    talk.wire.segments = [1 << 20] * 2
    assert end.recv(100) == b"not yet"
    with pytest.raises(BlockingIOError):
        end.recv(100)
    talk.client.unwrap()
    talk.client_says(b"")
    talk.wire.segments = [1 << 20]
    assert end.recv(100) == b""

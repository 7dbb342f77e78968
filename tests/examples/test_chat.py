"""server.py of examples/chat, with members who behave and others who do not."""

import contextlib
import pickle
import signal
import socket
from pathlib import Path

import pytest

from messages import MAX_LENGTH, MAX_SIZE, Message, encode
from room import MAX_QUEUE
from tests.chat_support import Peer, chat_room, frame, joined, left, said
from tests.example_support import LOOPS, problem

each_loop = pytest.mark.parametrize("loop", LOOPS)


def test_it_says_in_one_line_why_it_cannot_serve() -> None:
    assert problem("chat/server", "tcp://127.0.0.1:x").startswith("cannot bind to")


RUBBISH = {
    b"GET / HTTP/1.1\r\n\r\n": "a message has at most 8192 bytes, not 1195725856",
    pickle.dumps({"text": "hello"}): "a message has at most 8192 bytes, not ",
    (MAX_SIZE + 1).to_bytes(4, "big"): "a message has at most 8192 bytes, not 8193",
    frame(pickle.dumps({"text": "hello"})): "a message is JSON in UTF-8",
    frame(b"[" * MAX_SIZE): "a message is JSON in UTF-8",
    frame(b""): "a message is JSON in UTF-8",
    frame(b'["text", "hello"]'): "a message is a JSON object with one member, a string",
    frame(b'{"text": 5}'): "a message is a JSON object with one member, a string",
    frame(b'{"line": "* everybody has left"}'): "a message is due that is: ",
}
AS_NAME = {frame(b'{"name": "bob: "}'): "a name has only letters, digits and"}
AS_TEXT = {frame(b'{"text": "\\u001b[2J"}'): "a text has no control characters"}


def refusal(peer: Peer) -> str:
    """What the server says before it closes."""
    message = peer.receive()
    assert message is not None
    assert message.kind == "error"
    assert peer.receive() is None
    return message.text


@each_loop
def test_rubbish_ends_its_own_connection_only(loop: str, tmp_path: Path) -> None:
    with chat_room(loop=loop, folder=tmp_path) as room, Peer(room.ports[0], "bob") as bob:
        for data, reason in (RUBBISH | AS_NAME).items():
            with Peer(room.ports[0]) as mallory:
                mallory.socket.sendall(data)
                assert refusal(mallory).startswith(reason)
        for data, reason in (RUBBISH | AS_TEXT).items():
            with Peer(room.ports[0], "mallory") as mallory:
                mallory.socket.sendall(data)
                assert refusal(mallory).startswith(reason)
            bob.hears(joined(2, "mallory"), left("mallory"))


@each_loop
def test_frames_in_any_pieces(loop: str, tmp_path: Path) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Peer(room.ports[0]) as alice,
    ):
        alice.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in encode(Message("name", "alice")) + encode(Message("text", "single bytes")):
            alice.socket.sendall(bytes([byte]))
        bob.hears(joined(2, "alice"), said("alice", "single bytes"))
        alice.send(Message("text", "two"), Message("text", "at once"))
        bob.hears(said("alice", "two"), said("alice", "at once"))
        alice.socket.sendall(encode(Message("text", "cut"))[:-1])
        alice.socket.shutdown(socket.SHUT_WR)
        bob.hears(left("alice"))
        bob.say("she is gone")
        assert alice.receive() == Message("welcome", "alice@127.0.0.1")
        assert alice.receive() is None


@each_loop
def test_who_vanishes_or_says_no_name(loop: str, tmp_path: Path) -> None:
    with (
        chat_room("--name-timeout", "0.5", loop=loop, folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Peer(room.ports[0]) as silent,
        Peer(room.ports[0]) as half,
    ):
        half.socket.sendall(encode(Message("name", "half"))[:-1])
        Peer(room.ports[0], "alice").reset()
        bob.hears(joined(2, "alice"), left("alice"))
        Peer(room.ports[0]).reset()
        for peer in (silent, half):
            assert refusal(peer) == "no name came within 0.5 seconds"
        # It was for names only.
        Peer(room.ports[0], "alice").reset()
        bob.hears(joined(2, "alice"), left("alice"))


@each_loop
def test_one_host_has_no_more_than_its_connections(loop: str, tmp_path: Path) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        contextlib.ExitStack() as stack,
    ):
        members = [
            stack.enter_context(Peer(room.ports[0], f"member{number}")) for number in range(20)
        ]
        with Peer(room.ports[0]) as excess:
            assert excess.receive() is None
        members[0].say("hello")
        members[18].hears(joined(20, "member19"), said("member0", "hello"))


@each_loop
def test_who_does_not_read_has_to_leave_and_holds_up_nobody(loop: str, tmp_path: Path) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Peer(room.ports[0], "slow", receive_buffer=1) as slow,
        contextlib.ExitStack() as stack,
    ):
        bob.hears(joined(2, "slow"))
        talkers = []
        for number in range(6):
            talkers.append(stack.enter_context(Peer(room.ports[0], f"talker{number}")))
            bob.hears(joined(number + 3, f"talker{number}"))
        text = "\N{GRINNING FACE}" * MAX_LENGTH["text"]
        # They talk until the slow one has left. Bob hears everything.
        said_by_all = [Message("line", said(f"talker{number}", text)) for number in range(6)]
        heard = said_by_all
        while Message("line", left("slow")) not in heard:
            assert sorted(heard, key=str) == said_by_all
            for talker in talkers:
                talker.skip()
                talker.say(text)
            heard = [message for _ in talkers if (message := bob.receive())]
        bob.say("the room goes on")
        # What was on its way to the slow one, and why nothing more is.
        while (message := slow.receive()) is not None:
            last = message
        assert last == Message("error", "too slow")


@each_loop
def test_who_floods_does_not_make_others_too_slow(loop: str, tmp_path: Path) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Peer(room.ports[0], "carol") as carol,
        Peer(room.ports[0], "mallory") as mallory,
    ):
        # Many more than there is room for in a queue.
        mallory.send(*(Message("text", str(number)) for number in range(10 * MAX_QUEUE)))
        bob.hears(joined(2, "carol"), joined(3, "mallory"), said("mallory", "0"))
        bob.say("please stop")
        carol.hears(joined(3, "mallory"), said("mallory", "0"))
        number = 1
        while (message := carol.receive()) == Message("line", said("mallory", str(number))):
            number += 1
        assert message == Message("line", said("bob", "please stop"))


@each_loop
def test_at_the_end_everybody_is_told(loop: str, tmp_path: Path) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        Peer(room.ports[0], "bob") as bob,
        Peer(room.ports[0], "half") as half,
        Peer(room.ports[0], "mallory") as mallory,
    ):
        bob.hears(joined(2, "half"), joined(3, "mallory"))
        half.hears(joined(3, "mallory"))
        half.socket.sendall(encode(Message("text", "hello"))[:-1])
        mallory.send(*(Message("text", str(number)) for number in range(1000)))
        for peer in (bob, half):
            peer.hears(said("mallory", "0"))
        room.process.send_signal(signal.SIGTERM)
        for peer in (bob, half, mallory):
            while (message := peer.receive()) is not None and message.kind == "line":
                pass
            assert message == Message("error", "the room closes")
            assert peer.receive() is None
            peer.close()
        assert room.wait() == 0
        assert any(" 0 cut" in line for line in room.lines)


@each_loop
@pytest.mark.parametrize("data", [encode(Message("text", "x")) * 1000, b"\0"], ids=["flood", "cut"])
def test_at_the_end_who_is_not_between_two_messages_is_told(
    loop: str, data: bytes, tmp_path: Path
) -> None:
    with (
        chat_room(loop=loop, folder=tmp_path) as room,
        Peer(room.ports[0], "mallory") as mallory,
    ):
        mallory.socket.sendall(data)
        room.process.send_signal(signal.SIGTERM)
        assert refusal(mallory) == "the room closes"
        mallory.close()
        assert room.wait() == 0

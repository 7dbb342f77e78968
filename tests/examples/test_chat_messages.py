"""messages.py and room.py of examples/chat: what is accepted, and who is told what."""

import asyncio
import io
import json
import pickle
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import MAX_LENGTH, MAX_SIZE, BadMessage, Message, decode, encode, receive
from room import MAX_QUEUE, Member, Room

NAMES = st.from_regex(re.compile(r"[\w.-]{1,32}"), fullmatch=True)
SAFE = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
TEXTS = st.text(SAFE, min_size=1, max_size=MAX_LENGTH["text"])
MESSAGES = st.builds(Message, st.just("name"), NAMES) | st.builds(Message, st.just("text"), TEXTS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(list(MAX_LENGTH)), values),
).map(lambda value: json.dumps(value).encode())


def read(data: bytes, *expected: str) -> list[Message]:
    """What `receive` makes of all that a peer sends before it closes."""
    file = io.BytesIO(data)

    async def readexactly(size: int) -> bytes:
        block = file.read(size)
        if len(block) < size:
            raise asyncio.IncompleteReadError(block, size)
        return block

    async def read_all() -> list[Message]:
        messages = []
        while (message := await receive(readexactly, *expected)) is not None:
            messages.append(message)
        return messages

    return asyncio.run(read_all())


class TestMessages:
    @given(st.lists(MESSAGES))
    def test_what_is_encoded_is_received(self, messages: list[Message]) -> None:
        assert read(b"".join(map(encode, messages)), "name", "text") == messages

    @given(MESSAGES, st.data())
    def test_a_frame_that_is_cut_is_the_end(self, message: Message, data: st.DataObject) -> None:
        frame = encode(message)
        cut = data.draw(st.integers(0, len(frame) - 1))
        assert read(encode(message) + frame[:cut], "name", "text") == [message]

    @given(MESSAGES)
    def test_each_fits_however_json_escapes_it(self, message: Message) -> None:
        escaped = "".join(rf"\u{unit:04x}" for unit in units(message.text))
        payload = f'{{"{message.kind}": "{escaped}"}}'.encode()
        assert len(payload) <= MAX_SIZE
        assert decode(payload) == message

    def test_the_longest_fit(self) -> None:
        assert len(encode(Message("line", "\N{GRINNING FACE}" * MAX_LENGTH["line"]))) <= MAX_SIZE
        assert len(encode(Message("line", '"' * MAX_LENGTH["line"]))) <= MAX_SIZE

    @given(st.binary() | JSON)
    def test_any_payload_is_a_message_or_a_bad_message(self, payload: bytes) -> None:
        try:
            message = decode(payload)
        except BadMessage as error:
            # It goes to the peer.
            Message("error", str(error))
        else:
            assert decode(encode(message)[4:]) == message

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"hello",
            pickle.dumps({"text": "hello"}),
            b'{"text": "hello"',
            b'{"text": "\xff"}',
            '{"text": "hello"}'.encode("utf-16"),
            b"[" * MAX_SIZE,
            b'{"text": ' * 800,
            b"9" * MAX_SIZE,
        ],
    )
    def test_not_json(self, payload: bytes) -> None:
        with pytest.raises(BadMessage, match="is JSON in UTF-8"):
            decode(payload)

    @pytest.mark.parametrize(
        "payload",
        [
            "null",
            '"text"',
            '["text", "hello"]',
            '[["text", "hello"]]',
            "{}",
            '{"text": null}',
            '{"text": 1}',
            '{"text": ["hello"]}',
            '{"text": {"text": "hello"}}',
            '{"text": "hello", "name": "mallory"}',
            '{"text": "hello", "text": "hello"}',
        ],
    )
    def test_json_of_another_shape(self, payload: str) -> None:
        with pytest.raises(BadMessage, match="object with one member, a string"):
            decode(payload.encode())

    @pytest.mark.parametrize(
        ("kind", "text", "problem"),
        [
            ("shout", "hello", "a message is one of: name, text, welcome, line, error"),
            ("\x1b[2J", "hello", "a message is one of: name"),
            ("text", "", "a text has 1 to 500 characters, not 0"),
            ("text", "x" * 501, "a text has 1 to 500 characters, not 501"),
            ("name", "x" * 33, "a name has 1 to 32 characters, not 33"),
            ("name", "a b", "a name has only letters, digits and"),
            ("name", "a@b", "a name has only letters, digits and"),
            ("name", "a\n", "a name has only letters, digits and"),
        ],
    )
    def test_against_the_rules(self, kind: str, text: str, problem: str) -> None:
        with pytest.raises(BadMessage, match=re.escape(problem)):
            decode(json.dumps({kind: text}).encode())

    @pytest.mark.parametrize(
        "character",
        [
            "\x00",
            "\t",
            "\n",
            "\r",
            "\x1b",  # escape
            "\x7f",  # delete
            "\x9b",  # control sequence introducer
            "\u2028",  # line separator
            "\u2029",  # paragraph separator
            "\u202e",  # right-to-left override
            "\u2066",  # left-to-right isolate
            "\u200b",  # zero width space
            "\ud800",  # half of a surrogate pair
        ],
    )
    @pytest.mark.parametrize("kind", MAX_LENGTH)
    def test_no_control_characters(self, kind: str, character: str) -> None:
        with pytest.raises(BadMessage, match=f"^a {kind} has "):
            decode(json.dumps({kind: f"a{character}b"}).encode())

    @pytest.mark.parametrize("text", ["Grüße", "你好\u3000吗", "क्\u200dष", "👩\u200d🚀", "👩🏽"])
    def test_any_script_and_emoji(self, text: str) -> None:
        assert decode(encode(Message("text", text))[4:]).text == text

    def test_too_long_a_frame_is_not_read(self) -> None:
        with pytest.raises(BadMessage, match="at most 8192 bytes, not 8193"):
            read((MAX_SIZE + 1).to_bytes(4, "big"), "text")

    def test_another_kind_than_expected(self) -> None:
        with pytest.raises(BadMessage, match="a message is due that is: name; not: text"):
            read(encode(Message("text", "hello")), "name")


def units(text: str) -> Iterator[int]:
    """The UTF-16 code units, which JSON's escapes are made of."""
    encoded = text.encode("utf-16-be")
    for index in range(0, len(encoded), 2):
        yield int.from_bytes(encoded[index : index + 2], "big")


def told(member: Member) -> list[str]:
    """What a member was told since the last look; at its end, "end"."""
    texts = []
    while not member.outgoing.empty():
        frame = member.outgoing.get_nowait()
        texts.append("end" if frame is None else decode(frame[4:]).text)
    return texts


class TestRoom:
    def test_all_others_are_told(self) -> None:
        room = Room()
        alice = room.enter("alice", "127.0.0.1")
        bob = room.enter("bob", "::1")
        room.say(bob, "hello")
        room.leave(bob)
        assert told(alice) == [
            "alice@127.0.0.1",
            "* bob@::1 has come in (2 in the room)",
            "bob@::1: hello",
            "* bob@::1 has left",
        ]
        assert told(bob) == ["bob@::1", "end"]

    def test_a_name_is_there_once_at_a_time(self) -> None:
        room = Room()
        alice = room.enter("Alice", "127.0.0.1")
        with pytest.raises(BadMessage, match="the name aLICE is taken"):
            room.enter("aLICE", "127.0.0.2")
        room.leave(alice)
        other = room.enter("alice", "127.0.0.2")
        room.leave(alice)
        room.say(alice, "am I here?")
        assert told(other) == ["alice@127.0.0.2"]

    def test_who_does_not_read_has_to_leave(self) -> None:
        room = Room()
        alice, bob, carol = (room.enter(name, "127.0.0.1") for name in ("alice", "bob", "carol"))
        for number in range(MAX_QUEUE):
            told(bob)
            room.say(alice, str(number))
        assert "* carol@127.0.0.1 has left" in told(alice)
        assert told(bob)[-1] == "* carol@127.0.0.1 has left"
        assert told(carol)[-2:] == ["too slow", "end"]

    def test_all_may_be_too_slow_at_once(self) -> None:
        room = Room()
        members = [room.enter(f"member{number}", "127.0.0.1") for number in range(MAX_QUEUE)]
        for member in members[1:]:
            told(member)
        for number in range(MAX_QUEUE + 1):
            told(members[0])
            room.say(members[0], str(number))
        assert all(told(member)[-2:] == ["too slow", "end"] for member in members[1:])
        assert len(told(members[0])) == MAX_QUEUE - 1

    def test_each_may_say_something_before_anybody_reads(self) -> None:
        room = Room()
        members = [room.enter(f"member{number}", "127.0.0.1") for number in range(MAX_QUEUE)]
        for member in members:
            told(member)
        for member in members:
            room.say(member, "hello")
        assert {len(told(member)) for member in members} == {MAX_QUEUE - 1}

    def test_the_longest_line_fits(self) -> None:
        room = Room()
        host = "1111:" * 7 + "1111" + "%" + "x" * 15
        longest = room.enter("x" * MAX_LENGTH["name"], host)
        other = room.enter("other", "127.0.0.1")
        room.say(longest, "x" * MAX_LENGTH["text"])
        assert told(other)[-1].endswith("xxx")

    def test_when_it_closes_nobody_hears_of_the_others(self) -> None:
        room = Room()
        members = [room.enter(name, "127.0.0.1") for name in ("alice", "bob")]
        for member in members:
            told(member)
        room.close()
        for member in members:
            room.leave(member)
        assert [told(member) for member in members] == [["the room closes", "end"]] * 2

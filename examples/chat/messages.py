"""The messages of the chat, and their form on the network: JSON behind its length.

Tutorials have chats that send pickles. Whoever can send a pickle to a program that loads it can run
any code there: "The pickle module is not secure. Only unpickle data you trust", says the warning
in its documentation (https://docs.python.org/3/library/pickle.html). JSON is data only.

A frame is the size of the rest in bytes (4 bytes, big-endian) and a JSON object in UTF-8 with
one member, as {"text": "hello"}. Its key is the kind of the message, its value a string:

    name      from the client, first: who it wants to be
    text      from the client: what it says
    welcome   from the server, first: NAME@HOST, when the client is let in
    line      from the server: a line for the screen
    error     from the server, last: why it closes the connection

Nothing else is accepted, on either side. Above all there are no control characters: printed
on somebody's terminal, an escape sequence can do more than be read.
"""

import asyncio
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

SIZE_BYTES = 4
# Each `name` and `text` fits, even if its sender's JSON escapes every character.
MAX_SIZE = 8 * 1024
# The most characters of each kind. A `line` is a `text` behind its sender's NAME@HOST.
MAX_LENGTH = {"name": 32, "text": 500, "welcome": 120, "line": 700, "error": 200}

NAME = re.compile(r"[\w.-]+")
# Controls, formats (they turn the direction of writing, or cannot be seen), lone surrogates,
# separators of lines and paragraphs: unicode.org/reports/tr44/#General_Category_Values.
UNSAFE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Formats too, but they join and divide letters in Persian or Hindi, and make up many emoji.
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


class BadMessage(ValueError):
    """A message that is not accepted. Its text is safe to show, and tells the sender why."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the chat; to make one that breaks the rules raises BadMessage."""

    kind: str
    text: str

    def __post_init__(self) -> None:
        if self.kind not in MAX_LENGTH:
            raise BadMessage(f"a message is one of: {', '.join(MAX_LENGTH)}")
        longest = MAX_LENGTH[self.kind]
        if not 1 <= len(self.text) <= longest:
            raise BadMessage(f"a {self.kind} has 1 to {longest} characters, not {len(self.text)}")
        if self.kind == "name" and not NAME.fullmatch(self.text):
            raise BadMessage("a name has only letters, digits and . _ -")
        if not all(map(_is_safe, self.text)):
            raise BadMessage(f"a {self.kind} has no control characters")


def _is_safe(character: str) -> bool:
    return character in JOINERS or unicodedata.category(character) not in UNSAFE_CATEGORIES


def encode(message: Message) -> bytes:
    """The frame of a message."""
    payload = json.dumps({message.kind: message.text}, ensure_ascii=False).encode()
    return len(payload).to_bytes(SIZE_BYTES, "big") + payload


def decode(payload: bytes) -> Message:
    """The message of a frame, without its size. Raises BadMessage."""
    try:
        # Objects as tuples: as dicts they would hide a key that comes twice.
        value = json.loads(payload.decode(), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise BadMessage("a message is JSON in UTF-8") from error
    match value:
        case tuple([(str(kind), str(text))]):
            return Message(kind, text)
        case _:
            raise BadMessage("a message is a JSON object with one member, a string")


async def receive(readexactly: Callable[[int], Awaitable[bytes]], *expected: str) -> Message | None:
    """The next message, one of the kinds `expected`. Raises BadMessage.

    `readexactly` is that of an rfile or an `asyncio.StreamReader`. None says that the peer
    has closed the connection; what it may have begun by then is dropped.
    """
    try:
        size = int.from_bytes(await readexactly(SIZE_BYTES), "big")
        if size > MAX_SIZE:
            raise BadMessage(f"a message has at most {MAX_SIZE} bytes, not {size}")
        message = decode(await readexactly(size))
    except asyncio.IncompleteReadError:
        return None
    if message.kind not in expected:
        raise BadMessage(f"a message is due that is: {', '.join(expected)}; not: {message.kind}")
    return message

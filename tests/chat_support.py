"""The chat room of examples/chat as a process, and connections to it."""

import contextlib
import socket
import struct
from collections.abc import Generator
from pathlib import Path

from messages import Message, decode, encode
from tests.deploy_support import Command
from tests.example_support import TIMEOUT, running


@contextlib.contextmanager
def chat_room(*arguments: str, loop: str, folder: Path) -> Generator[Command]:
    arguments = (*arguments, "tcp://127.0.0.1:0")
    with running("chat/server", *arguments, loop=loop, folder=folder) as room:
        yield room
    assert not any("Traceback" in line for line in room.lines)


class Peer:
    """A connection of somebody who speaks the protocol, or another one."""

    def __init__(self, port: int, name: str = "", receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT)
        self._file = self.socket.makefile("rb")
        try:
            self.socket.connect(("127.0.0.1", port))
            if name:
                self.send(Message("name", name))
                assert self.receive() == Message("welcome", f"{name}@127.0.0.1")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def send(self, *messages: Message) -> None:
        self.socket.sendall(b"".join(map(encode, messages)))

    def say(self, text: str) -> None:
        self.send(Message("text", text))

    def receive(self) -> Message | None:
        """The next message; None at the end."""
        size = self._file.read(4)
        return decode(self._file.read(int.from_bytes(size, "big"))) if size else None

    def hears(self, *lines: str) -> None:
        """Nothing but these lines come next."""
        assert [self.receive() for _ in lines] == [Message("line", line) for line in lines]

    def skip(self) -> None:
        """Take what has come, and forget it."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.socket.recv(64 * 1024):
                pass
        self.socket.settimeout(TIMEOUT)

    def reset(self) -> None:
        """Vanish: the server gets a reset, not an end (socket(7), SO_LINGER)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def joined(number: int, name: str) -> str:
    return f"* {name}@127.0.0.1 has come in ({number} in the room)"


def left(name: str) -> str:
    return f"* {name}@127.0.0.1 has left"


def said(name: str, text: str) -> str:
    return f"{name}@127.0.0.1: {text}"

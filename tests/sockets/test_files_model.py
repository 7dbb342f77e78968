"""Everything that sends on one connection, in random sequences, against a model of its bytes.

The model knows the order of the calls, and of each call whether all of its bytes have to arrive,
none, or some first part of them.
"""

import asyncio
import enum
import fcntl
import io
import random
import socket
import struct
import tempfile
import termios
from collections.abc import Awaitable, Callable

import pytest

from aiosocketserver.sockets.files import SocketWriter
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import connected, small_pair, tcp_pair

SIZES = [0, 1, 10, 500, 5_000, 40_000, 65_535, 65_536, 100_000]
SIZE_WEIGHTS = [1, 4, 8, 8, 6, 4, 1, 1, 1]


class Arrives(enum.Enum):
    ALL = "all"
    PREFIX = "a prefix"
    NOTHING = "nothing"


class Call:
    """One call that sends, its bytes, and what the model says about them."""

    def __init__(self, number: int, name: str, size: int) -> None:
        self.name = name
        # Words that tell call and position; no byte of one call begins another one.
        mark = bytes([0x80 + number])
        words = (mark + b"%07d" % word for word in range(size // 8 + 1))
        self.data = b"".join(words)[:size]
        self.arrives = Arrives.ALL
        self.done = False

    def __repr__(self) -> str:
        return f"{self.name}({len(self.data)}) arrives: {self.arrives.value}"


class Model:
    """A connection, the calls made on it in their order, and what its peer has received."""

    def __init__(self, connection: StreamSocket, peer: socket.socket, seed: int) -> None:
        self.random = random.Random(seed)
        self.connection = connection
        self.wfile = SocketWriter(connection)
        self.peer = peer
        self.started = 0
        self.calls: list[Call] = []
        self.tasks: dict[asyncio.Task[None], Call | None] = {}
        self.received = bytearray()
        self.sender: Call | None = None
        self.shut_down = False
        self.closed = False

    # What the handler's tasks do

    def start(self, name: str) -> None:
        size = self.random.choices(SIZES, SIZE_WEIGHTS)[0]
        if name == "sendfile":
            size = max(size, 1)  # after a close, an empty file asks nothing of the kernel
        call = Call(self.started, name, size)
        self.started += 1
        run = self.write if name in ("write", "writelines") else self.send

        async def task() -> None:
            # The order in which calls begin is the order of their bytes.
            self.calls.append(call)
            await run(call)

        self.tasks[asyncio.create_task(task())] = call

    async def write(self, call: Call) -> None:
        refused = self.shut_down or self.closed
        if refused:
            call.arrives = Arrives.NOTHING
        try:
            if call.name == "write":
                assert await self.wfile.write(bytearray(call.data)) == len(call.data)
            else:
                middle = len(call.data) // 2
                await self.wfile.writelines([call.data[:middle], call.data[middle:]])
        except OSError:
            # It was written all the same when a later close ended its wait.
            assert refused or self.closed
        else:
            assert not refused

    async def send(self, call: Call) -> None:
        if self.refuses_to_send():
            call.arrives = Arrives.NOTHING
            with pytest.raises((RuntimeError, OSError)):
                await self.senders[call.name](self, call.data)
            return
        self.sender = call
        call.arrives = Arrives.PREFIX
        try:
            count = await self.senders[call.name](self, call.data)
            call.data = call.data[:count]
            call.arrives = Arrives.ALL
        except asyncio.CancelledError:
            if call.name in ("send", "sendmsg"):
                call.arrives = Arrives.NOTHING
            raise
        except OSError:
            assert self.closed
            if call.name in ("send", "sendmsg"):
                call.arrives = Arrives.NOTHING
        finally:
            self.sender = None

    def refuses_to_send(self) -> bool:
        return self.sender is not None or self.shut_down or self.closed

    async def _sendall(self, data: bytes) -> int:
        await self.connection.sendall(data)
        return len(data)

    async def _sendfile(self, data: bytes) -> int:
        with io.BytesIO() if len(data) % 2 else tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            assert await self.connection.sendfile(file) == len(data)
        return len(data)

    senders: dict[str, Callable[["Model", bytes], Awaitable[int]]] = {  # noqa: RUF012
        "send": lambda self, data: self.connection.send(data),
        "sendmsg": lambda self, data: self.connection.sendmsg([data[:7], data[7:]]),
        "sendall": _sendall,
        "sendfile": _sendfile,
    }

    def start_flush(self) -> None:
        async def task() -> None:
            before = [call for call in self.calls if call.arrives is Arrives.ALL]
            expected = sum(len(call.data) for call in before)
            try:
                await self.wfile.flush()
            except OSError:
                assert self.closed
                return
            if self.peer.family == socket.AF_UNIX and not self.closed:
                # Of a call under way at the time, or torn later, the model knows no size.
                assert len(self.received) + self.waiting() >= expected

        self.tasks[asyncio.create_task(task())] = None

    def waiting(self) -> int:
        """How many bytes the kernel has for the peer."""
        (count,) = struct.unpack("i", fcntl.ioctl(self.peer, termios.FIONREAD, b"\0" * 4))
        assert isinstance(count, int)
        return count

    def cancel(self) -> None:
        if self.tasks:
            task = self.random.choice(list(self.tasks))
            task.cancel()

    def half_close(self) -> None:
        if not self.shut_down and not self.closed:
            self.connection.shutdown(socket.SHUT_WR)
            self.shut_down = True

    def close(self) -> None:
        if self.sender is not None:
            # What waits behind a message that is torn does not leave.
            behind = self.calls.index(self.sender) + 1
            for call in self.calls[behind:]:
                call.arrives = Arrives.NOTHING
        self.connection.close()
        self.closed = True

    # What the peer does

    def read(self, size: int) -> bool:
        """Take what is there; False at the end of the connection."""
        try:
            data = self.peer.recv(size)
        except BlockingIOError:
            return True
        self.received += data
        return bool(data)

    # The sequence

    async def run(self, steps: int, *, ends: bool) -> None:
        names = ["write"] * 8 + ["writelines"] * 2 + ["sendall"] * 3
        names += ["send", "sendmsg", "sendfile", "flush", "cancel", "cancel", "cancel"]
        names += ["read"] * 6 + ["turn"] * 8
        for step in range(steps):
            name = self.random.choice(names)
            if ends and step > steps // 2:
                name = self.random.choice([name] * 8 + ["half_close", "close"])
            if name == "read":
                self.read(self.random.choice([1, 100, 10_000, 200_000]))
            elif name == "turn":
                for _ in range(self.random.randrange(4)):
                    await asyncio.sleep(0)
            elif name == "flush":
                self.start_flush()
            elif name in ("cancel", "half_close", "close"):
                getattr(self, name)()
            else:
                self.start(name)
            for task in [task for task in self.tasks if task.done()]:
                self.reap(task)
        await self.finish()

    def reap(self, task: asyncio.Task[None]) -> None:
        del self.tasks[task]
        if not task.cancelled():
            task.result()

    async def finish(self) -> None:
        """With a peer that reads, everything ends by itself: nothing needs a flush."""
        while self.tasks:
            self.read(100_000)
            await asyncio.sleep(0)
            for task in [task for task in self.tasks if task.done()]:
                self.reap(task)
        if not (self.shut_down or self.closed):
            await self.drained()
            self.connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(10):
            while self.read(100_000):  # noqa: ASYNC110, it is the peer that goes on here
                await asyncio.sleep(0)

    async def drained(self) -> None:
        """Read until nothing is pending, and nothing that was sent is on its way."""
        least = sum(len(call.data) for call in self.calls if call.arrives is Arrives.ALL)
        async with asyncio.timeout(10):
            while len(self.received) < least:
                self.read(100_000)
                await asyncio.sleep(0)

    def check(self) -> None:
        position = 0
        for call in self.calls:
            data = call.data
            if call.arrives is Arrives.ALL:
                got = bytes(self.received[position : position + len(data)])
                assert got == data, f"{call!r} did not arrive after {position} bytes: {self.calls}"
                position += len(data)
            elif call.arrives is Arrives.PREFIX:
                position += common_prefix(data, self.received, position)
        assert position == len(self.received), f"{len(self.received) - position} bytes too many"


def common_prefix(data: bytes, received: bytearray, position: int) -> int:
    """How many bytes of `received` at `position` are the first ones of `data`."""
    low, high = 0, min(len(data), len(received) - position)
    while low < high:
        middle = (low + high + 1) // 2
        if received[position : position + middle] == data[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def bounded_tcp_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    return ours, theirs


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("pair", [small_pair, bounded_tcp_pair])
@pytest.mark.parametrize("seed", range(5))
async def test_random_sequences_send_what_the_model_says(
    seed: int, pair: Callable[[], tuple[socket.socket, socket.socket]], ends: bool
) -> None:
    for part in range(20):
        async with connected(pair()) as (connection, peer):
            model = Model(connection, peer.sock, seed * 1000 + part)
            await model.run(60, ends=ends)
            model.check()

"""Random calls on one connection, told one by one: `python -m tests.in_step LOOP SEED...`.

tests/test_compiled.py runs it with the core in Python and with the compiled one, and compares.
Whatever depends on time alone is left out: what is told is the same in each run.
"""

import asyncio
import itertools
import random
import re
import socket
import sys
import zlib
from array import array
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from aiosocketserver.errors import LimitExceeded
from aiosocketserver.sockets.files import SocketReader, SocketWriter
from aiosocketserver.sockets.lingering import LingeringSockets
from aiosocketserver.sockets.stream import StreamSocket
from tests.support import small_pair

SIZES = [0, 1, 2, 100, 1000, 5000, 65536, 100_000, 300_000, 10**19]
FLAGS = [0] * 8 + [int(socket.MSG_PEEK), int(socket.MSG_DONTWAIT), int(socket.MSG_OOB), False]
STATE = (
    *("_credit", "_received", "_sent", "_answered", "_input_expected", "_peer_closed"),
    *("_receiving", "_sending", "_unsent", "_half_close_requested", "_writer_registered"),
)
# A task that is asked to end has so many turns of the loop for it; each goes on at its own.
TURNS = 6


class BadBuffer:
    """Not a buffer."""


class Walk:
    """One connection, its peer, and calls that may still wait."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        here, self.peer = small_pair()
        self.peer.setblocking(False)
        loop = asyncio.get_running_loop()
        self.lingering = LingeringSockets(loop, 1.0)
        self.sock = StreamSocket(here, self.lingering)
        self.rfile = SocketReader(
            self.sock, segment_size=4096, max_line_size=3000, max_block_size=50_000
        )
        self.wfile = SocketWriter(self.sock)
        self.waiting: dict[asyncio.Task[Any], str] = {}
        self.lines: list[str] = []

    def tell(self, what: str) -> None:
        # Of an object in an error's text.
        what = re.sub("0x[0-9a-f]+", "0x...", what)
        state = " ".join(f"{name[1:]}={getattr(self.sock, name)!r}" for name in STATE)
        waits = self.sock._waits_for()
        self.lines.append(f"{what} [{state} waits={waits} {self.sock._traffic.received}]")

    async def run(self) -> None:
        for _ in range(60):
            name, step = self.random.choices(*zip(*self.steps(), strict=True), k=1)[0], None
            step = getattr(self, f"do_{name}")
            try:
                told = step()
            except Exception as error:  # noqa: BLE001
                told = outcome(error)
            self.tell(f"{name}: {told}")
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self.tell_ended()
        for task in self.waiting:
            task.cancel()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        self.tell_ended()
        self.sock.close()
        self.tell("closed")
        self.peer.close()
        await self.lingering.wait_closed()

    def steps(self) -> Iterator[tuple[str, int]]:
        for name in dir(self):
            if name.startswith("do_"):
                rare = name in ("do_close", "do_peer_close", "do_shutdown", "do_close_behind")
                yield name.removeprefix("do_"), 1 if rare else 8

    def tell_ended(self) -> None:
        for task, name in list(self.waiting.items()):
            if task.done():
                del self.waiting[task]
                if task.cancelled():
                    self.tell(f"  {name} was cancelled")
                else:
                    self.tell(f"  {name} ended: {outcome(task.exception() or task.result())}")

    def begin(self, name: str, call: Coroutine[Any, Any, Any]) -> str:
        self.waiting[asyncio.ensure_future(call)] = f"{name} {next(self.numbers)}"
        return "begun"

    numbers = itertools.count()

    # What the handler does

    def do_recv(self) -> str:
        return self.begin("recv", self.sock.recv(self.size(), *self.flags()))

    def do_recv_odd(self) -> str:
        size: Any = self.random.choice([-1, True, 1.5, "9", None])
        return self.begin(f"recv({size!r})", self.sock.recv(size))

    def do_recv_into(self) -> str:
        size = self.random.choice([0, 1, 1000, 300_000])
        kind: Any = self.random.choice([bytearray, bytes, lambda n: array("I", bytes(4 * n))])
        buffer = self.random.choice([kind(size), kind(size), memoryview(bytearray(size))])
        count = self.random.choice([0, 0, 0, 5, -1, 10**6])
        return self.begin("recv_into", self.received_into(buffer, count))

    async def received_into(self, buffer: Any, count: int) -> Any:
        received = await self.sock.recv_into(buffer, count, *self.flags())
        return received, zlib.crc32(bytes(buffer))

    def do_recv_into_odd(self) -> str:
        return self.begin("recv_into", self.sock.recv_into(BadBuffer()))  # type: ignore[arg-type]

    def do_sendall(self) -> str:
        return self.begin("sendall", self.sock.sendall(self.data(), *self.flags()[:1]))

    def do_send(self) -> str:
        return self.begin("send", self.sock.send(self.data()))

    def do_send_odd(self) -> str:
        data: Any = self.random.choice(["text", 5, None, memoryview(b"abcdef")[::2]])
        return self.begin("sendall", self.sock.sendall(data))

    def do_write(self) -> str:
        return self.begin("write", self.wfile.write(self.data()))

    def do_flush(self) -> str:
        return self.begin("flush", self.wfile.flush())

    def do_readline(self) -> str:
        size = self.random.choice([-1, -1, 0, 10, 5000])
        return self.begin("readline", self.rfile.readline(size))

    def do_iterate(self) -> str:
        return self.begin("next", self.rfile.__anext__())

    def do_readuntil(self) -> str:
        return self.begin("readuntil", self.rfile.readuntil(b"\n3"))

    def do_readexactly(self) -> str:
        return self.begin("readexactly", self.rfile.readexactly(self.random.choice([0, 7, 60_000])))

    def do_read1(self) -> str:
        return self.begin("read1", self.rfile.read1(self.random.choice([-1, 0, 10])))

    def do_timeout(self) -> str:
        # None that strikes: it would do so at another moment each time.
        seconds = self.random.choice([None, 0, 1000.0])
        self.sock.settimeout(seconds)
        return repr(seconds)

    def do_shutdown(self) -> str:
        self.sock.shutdown(how := self.random.choice([socket.SHUT_RD, socket.SHUT_WR]))
        return str(int(how))

    def do_close(self) -> str:
        self.sock.close()
        return "done"

    def do_close_behind(self) -> str:
        """Close the socket.socket that the connection has, and not the connection."""
        self.sock._stop_watching()
        self.sock._unregister_writer()
        self.sock._sock.close()
        return "done"

    def do_credit(self) -> str:
        self.sock._credit = self.random.choice([0, -5, 1])
        return "set"

    def do_cancel(self) -> str:
        if not self.waiting:
            return "nothing"
        task = self.random.choice(list(self.waiting))
        task.cancel(*self.random.choice([(), ("why",)]))
        return self.waiting[task]

    # What the peer does

    def do_peer_send(self) -> str:
        return str(self.peer.send(self.lines_of(self.random.choice([1, 40, 4000, 70_000]))))

    def do_peer_send_more(self) -> str:
        return self.do_peer_send()

    def do_peer_recv(self) -> str:
        received = 0
        try:
            while block := self.peer.recv(2**20):
                received += len(block)
        except BlockingIOError:
            pass
        return str(received)

    def do_peer_close(self) -> str:
        self.peer.close()
        return "done"

    # What is made up

    def size(self) -> int:
        return self.random.choice(SIZES)

    def flags(self) -> tuple[int, ...]:
        return self.random.choice([(), (self.random.choice(FLAGS),)])

    def data(self) -> bytes:
        data = self.lines_of(self.random.choice([0, 1, 100, 3000, 66_000, 300_000]))
        kind: Callable[[bytes], Any] = self.random.choice([bytes, bytes, bytearray, memoryview])
        made: bytes = kind(data)
        return made

    def lines_of(self, size: int) -> bytes:
        line = b"%d\n" % self.random.randrange(10 ** self.random.choice([1, 9, 60]))
        return (line * (size // len(line) + 1))[:size]


def outcome(of: object) -> str:
    """What is told of a result, or of an error."""
    if isinstance(of, bytes):
        return f"{len(of)} bytes {of[:20]!r}... {zlib.crc32(of)}"
    if isinstance(of, BaseException):
        cause, context = of.__cause__, of.__context__
        number = f" errno {of.errno}" if isinstance(of, OSError) else ""
        limit = " limit" if isinstance(of, LimitExceeded) else ""
        return f"{type(of).__name__}({of}){number}{limit} from {cause!r} in {context!r}"
    return repr(of)


def main(loop: str, *seeds: str) -> None:
    """Take a walk for each seed, and tell it."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    for seed in seeds:
        with asyncio.Runner(loop_factory=factory) as runner:
            lines: list[str] = []

            async def walk(number: int, lines: list[str]) -> None:
                walk = Walk(number)
                walk.lines = lines
                await walk.run()

            print(f"seed {seed}")
            runner.run(walk(int(seed), lines))
            print("\n".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A small key-value server that redis-cli and redis-benchmark can talk to.

It speaks RESP 2 (https://redis.io/docs/latest/develop/reference/protocol-spec/), pipelined:
`rfile` has all the commands that came at once, and `wfile` joins the answers to them.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/line_kv.py [--max-bytes N] [BIND]        (tcp://127.0.0.1:6380)
    redis-cli -p 6380 set greeting hello
    redis-benchmark -p 6380 -t set,get -P 16 -q

It knows PING, ECHO, SET, GET, DEL, INCR, MSET, MGET, DBSIZE, and what the two programs ask
at their start. All is in memory, and shared by all handlers without a lock: they take turns
on one loop, and carrying out a command awaits nothing.
"""

import argparse
import asyncio
import logging
import re
import sys

from aiosocketserver import LimitExceeded, StartError, StreamRequestHandler, run

# What one command may have: arguments, and bytes in all of them.
MAX_ARGUMENTS = 1024
MAX_COMMAND = 1024 * 1024


class CommandError(Exception):
    """An answer that is an error; the connection goes on."""


class ProtocolError(Exception):
    """What came is not RESP, so nothing after it can be understood."""


def bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def cost(key: bytes, value: bytes) -> int:
    """Bytes of memory, with what Python adds to them."""
    return len(key) + len(value) + 150


class Store:
    """What is known, in at most `max_bytes` bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._values: dict[bytes, bytes] = {}
        self._left = max_bytes

    def _put(self, pairs: dict[bytes, bytes]) -> None:
        """All of them or, when there is no room, none."""
        before = sum(cost(key, self._values[key]) for key in pairs if key in self._values)
        left = self._left + before - sum(cost(*pair) for pair in pairs.items())
        if left < 0:
            raise CommandError("OOM command not allowed when used memory > 'maxmemory'.")
        self._left = left
        self._values |= pairs

    def _remove(self, key: bytes) -> bool:
        if key not in self._values:
            return False
        self._left += cost(key, self._values.pop(key))
        return True

    def answer(self, name: bytes, *arguments: bytes) -> bytes:
        """Carry out one command. Raises CommandError when that cannot be done."""
        values = self._values
        match [name.upper(), *arguments]:
            case [b"PING"]:
                return b"+PONG\r\n"
            case [b"PING" | b"ECHO", text]:
                return bulk(text)
            case [b"SET", key, value]:
                self._put({key: value})
                return b"+OK\r\n"
            case [b"GET", key]:
                return bulk(values.get(key))
            case [b"DEL", *keys] if keys:
                return b":%d\r\n" % sum(map(self._remove, keys))
            case [b"INCR", key]:
                if not re.fullmatch(rb"-?\d{1,18}", value := values.get(key, b"0")):
                    raise CommandError("ERR value is not an integer or out of range")
                self._put({key: b"%d" % (int(value) + 1)})
                return b":%b\r\n" % values[key]
            case [b"MSET", *pairs] if pairs and len(pairs) % 2 == 0:
                self._put(dict(zip(pairs[::2], pairs[1::2], strict=True)))
                return b"+OK\r\n"
            case [b"MGET", *keys] if keys:
                return b"*%d\r\n" % len(keys) + b"".join(bulk(values.get(key)) for key in keys)
            case [b"DBSIZE"]:
                return b":%d\r\n" % len(values)
            case [b"COMMAND", *_]:
                return b"*0\r\n"
            case [b"CONFIG", action, parameter] if action.upper() == b"GET":
                return b"*2\r\n" + bulk(parameter) + bulk(b"")
            case _:
                raise CommandError(
                    f"ERR unknown command, or not with these arguments: {name[:40]!r}"
                )


class KeyValue(StreamRequestHandler):
    store: Store

    async def handle(self) -> None:
        try:
            while (command := await self.read_command()) is not None:
                try:
                    answer = self.store.answer(*command) if command else b""
                except CommandError as error:
                    answer = f"-{error}\r\n".encode()
                await self.wfile.write(answer)
        except (ProtocolError, LimitExceeded) as error:
            await self.wfile.write(f"-ERR Protocol error: {error}\r\n".encode())
        except asyncio.IncompleteReadError:
            return  # The client has gone in the middle of a command.

    async def read_command(self) -> list[bytes] | None:
        """The next command, empty for an empty line; None when the client has gone."""
        line = await self.rfile.readline()
        if not line.endswith(b"\n"):
            return None
        if not line.startswith(b"*"):
            return line.split()
        command: list[bytes] = []
        left = MAX_COMMAND
        for _ in range(number(b"*", line, MAX_ARGUMENTS)):
            size = number(b"$", await self.rfile.readuntil(b"\n"), left)
            block = await self.rfile.readexactly(size + 2)
            if not block.endswith(b"\r\n"):
                raise ProtocolError("a string is longer than its length says")
            command.append(block[:-2])
            left -= size
        return command


def number(mark: bytes, line: bytes, limit: int) -> int:
    """The number in a line that begins with `mark`."""
    if not re.fullmatch(rb"[*$]\d{1,10}\r\n", line) or line[:1] != mark:
        raise ProtocolError(f"expected {mark!r} and a number, got {line[:40]!r}")
    if (value := int(line[1:])) > limit:
        raise ProtocolError(f"{line[:40]!r} is above the limit of {limit}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description="A small key-value server.")
    parser.add_argument("--max-bytes", type=int, default=64 * 1024 * 1024, metavar="N")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:6380")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    KeyValue.store = Store(arguments.max_bytes)
    try:
        # Each part of a command has to come within 30 seconds; between two a client may be silent.
        sys.exit(run(KeyValue, arguments.bind, max_connections=1000, read_timeout=30))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

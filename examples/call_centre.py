"""The telephone of a bakery: a caller dials `0` to talk to somebody, and `exit` to hang up.

Callers send their inputs without anything between them, so that TCP may cut and join
them. `0` and `exit` are understood as soon as they have come; anything else ends with a
line's end, or when the caller pauses.

The handler is a coroutine, or with --legacy the same as it is written for socketserver,
in threads, under `aiosocketserver.compat`: one import is all that differs.

Start it, and call it from another terminal; Ctrl-C ends it:

    python examples/call_centre.py [--legacy] [PORT]        (9999)
    nc 127.0.0.1 9999
"""

import argparse
import contextlib
import logging
import re
import sys

from aiosocketserver import BaseRequestHandler, StartError, compat, run

GREETING = (
    "您好! 这里是面包房. 按 0 找店员.\n"
    "This is the bakery. Dial 0 to talk to somebody, exit to hang up.\n"
).encode()
PUT_THROUGH = "店员这就来.\nSomebody is on the way to the phone.\n".encode()
UNKNOWN = "没听懂.\nNothing is known by that number.\n".encode()

SOMEBODY, EXIT = b"0", b"exit"
# Seconds without a byte after which an input is taken as it is.
PAUSE = 0.2
# Bytes of one input; what is longer is not waited for.
LONGEST = 1024


class Inputs:
    """Tells the inputs of a caller apart: bytes in, whole inputs out."""

    _input = re.compile(rb"(0|exit)|([^\n]*)\n")

    def __init__(self) -> None:
        self._begun = b""

    @property
    def begun(self) -> bool:
        """Whether there is a part of an input, which the next bytes or a pause will end."""
        return bool(self._begun.strip())

    def entered(self, data: bytes) -> list[bytes]:
        """The inputs that are whole with these bytes."""
        self._begun += data
        inputs: list[bytes] = []
        while found := self._input.match(self._begun):
            self._begun = self._begun[found.end() :]
            inputs.append(found[1] or found[2].strip())
        if len(self._begun) > LONGEST:
            inputs += self.paused()
        return [each for each in inputs if each]

    def paused(self) -> list[bytes]:
        """The input that a pause has ended."""
        rest, self._begun = self._begun.strip(), b""
        return [rest] if rest else []


class Call(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(GREETING)
        inputs = Inputs()
        while True:
            self.request.settimeout(PAUSE if inputs.begun else None)
            try:
                data = await self.request.recv(1024)
                entered = inputs.entered(data) if data else [*inputs.paused(), EXIT]
            except TimeoutError:
                entered = inputs.paused()
            for each in entered:
                if each == EXIT:
                    return
                await self.request.sendall(PUT_THROUGH if each == SOMEBODY else UNKNOWN)


class LegacyCall(compat.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(GREETING)
        inputs = Inputs()
        while True:
            self.request.settimeout(PAUSE if inputs.begun else None)
            try:
                data = self.request.recv(1024)
                entered = inputs.entered(data) if data else [*inputs.paused(), EXIT]
            except TimeoutError:
                entered = inputs.paused()
            for each in entered:
                if each == EXIT:
                    return
                self.request.sendall(PUT_THROUGH if each == SOMEBODY else UNKNOWN)


def serve_legacy(port: int) -> None:
    """As a program for socketserver serves: blocking, until Ctrl-C."""
    with compat.ThreadingTCPServer(("127.0.0.1", port), LegacyCall) as server:
        port = server.server_address[1]
        print(f"serving LegacyCall on tcp://127.0.0.1:{port} (compat)", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="The telephone of a bakery.")
    parser.add_argument("--legacy", action="store_true", help="the handler made for socketserver")
    parser.add_argument("port", nargs="?", type=int, default=9999)
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        if arguments.legacy:
            serve_legacy(arguments.port)
        else:
            sys.exit(run(Call, f"tcp://127.0.0.1:{arguments.port}", shutdown_timeout=1))
    except (StartError, OSError, OverflowError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

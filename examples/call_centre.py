"""The 10086 service: greets its caller, who dials `0` for an operator and `exit` to hang up.

Callers send their inputs without anything between them, so that TCP may cut and join
them. `0` and `exit` are understood as soon as they have come; anything else ends with a
line's end, or when the caller pauses.

The handler is a coroutine, or with --legacy the same as it is written for socketserver,
in threads, under `aiosocketserver.compat`: one import is all that differs.

Start it, and call it from another terminal; Ctrl-C ends it:

    python examples/call_centre.py [--legacy] [PORT]        (8009)
    nc 127.0.0.1 8009
"""

import argparse
import contextlib
import logging
import re
import sys

from aiosocketserver import BaseRequestHandler, StartError, compat, run

GREETING = (
    "欢迎致电 10086,请输入1xxx,0转人工服务.\n"
    "Welcome to 10086. Please enter 1xxx, or 0 for an operator.\n"
).encode()
RECORDED = "通过可能会被录音.\nYour call may be recorded.\n".encode()
AGAIN = "请重新输入.\nPlease enter it again.\n".encode()

OPERATOR, EXIT = b"0", b"exit"
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
                await self.request.sendall(RECORDED if each == OPERATOR else AGAIN)


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
                self.request.sendall(RECORDED if each == OPERATOR else AGAIN)


def serve_legacy(port: int) -> None:
    """As a program for socketserver serves: blocking, until Ctrl-C."""
    with compat.ThreadingTCPServer(("127.0.0.1", port), LegacyCall) as server:
        port = server.server_address[1]
        print(f"serving LegacyCall on tcp://127.0.0.1:{port} (compat)", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="The 10086 service.")
    parser.add_argument("--legacy", action="store_true", help="the handler made for socketserver")
    parser.add_argument("port", nargs="?", type=int, default=8009)
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

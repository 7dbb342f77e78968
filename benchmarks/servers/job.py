"""What one server of a benchmark is to do, from its command line.

    python -m benchmarks.servers.SERVER ROLE [--loop LOOP] [--path PATH] [--size BYTES]

Roles:

- echo: send back what comes, as it comes
- lines: send back each line
- connects: send back once what comes, and close
- tls, tls-connects: `echo` and `connects` with TLS
- datagrams: send back each datagram
- upload: count what comes until its end, answer the number, and close
- download: send `size` bytes, and close
- sendfile: the same from a file

A server says on standard output where it listens, in one line, and serves until it is
killed.
"""

import argparse
import asyncio
import importlib
import ssl
import tempfile
from dataclasses import dataclass
from typing import IO

import trustme

LOOPS = ("asyncio", "uvloop", "asyncio+aiofastnet", "uvloop+aiofastnet")

# What one recv() asks for, and one block of a download.
BLOCK_SIZE = 64 * 1024
# The bytes of a transfer, which repeat.
BLOCK = bytes(range(256)) * (BLOCK_SIZE // 256)
# Of the file that is sent again and again.
FILE_SIZE = 16 * 1024 * 1024

# A burst of clients that connect at once has to fit.
BACKLOG = 1024


@dataclass(frozen=True)
class Job:
    """One role to serve. `path` is that of a Unix socket; without, TCP or UDP is meant."""

    role: str
    loop: str
    path: str
    size: int

    @property
    def task(self) -> str:
        """The role without its encryption."""
        return {"tls": "echo", "tls-connects": "connects"}.get(self.role, self.role)

    def make_context(self) -> ssl.SSLContext | None:
        """For the server, with a certificate of its own; None where nothing is encrypted."""
        if self.task == self.role:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issued = trustme.CA().issue_cert("127.0.0.1")
        issued.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
        return context

    def announce(self, port: int | None = None) -> None:
        """Say where the server listens: it is ready."""
        print(self.path or port, flush=True)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that was asked for: asyncio or uvloop, with +aiofastnet if wanted."""
        name, _, addition = self.loop.partition("+")
        if name == "uvloop":
            import uvloop

            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        else:
            loop = asyncio.new_event_loop()
        if addition:
            importlib.import_module("aiofastnet").patch_loop(loop)
        return loop

    def make_file(self) -> IO[bytes]:
        """The file to send, of FILE_SIZE bytes."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the server sends it until it ends
        for _ in range(FILE_SIZE // BLOCK_SIZE):
            file.write(BLOCK)
        file.flush()
        return file


def job_from_command_line() -> Job:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("role")
    parser.add_argument("--loop", default="asyncio", choices=LOOPS)
    parser.add_argument("--path", default="", help="of a Unix socket")
    parser.add_argument("--size", type=int, default=1 << 30, help="of a download")
    arguments = parser.parse_args()
    return Job(arguments.role, arguments.loop, arguments.path, arguments.size)

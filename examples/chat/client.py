"""The terminal of somebody in the chat room: what others say appears above the line being typed.

Start it when server.py serves:

    python examples/chat/client.py NAME [HOST:PORT]     (127.0.0.1:9999)

Each line that you type goes to all others; /quit, Ctrl-D or Ctrl-C leaves. When standard input
is no terminal, its lines are sent, and it leaves after the last one:

    echo hello | python examples/chat/client.py NAME
"""

import argparse
import asyncio
import os
import stat
import sys
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import closing, suppress

from prompt_toolkit import PromptSession
from prompt_toolkit.patch_stdout import patch_stdout

from messages import BadMessage, Message, encode, receive

# Seconds for the connection, and again for the server to let us in.
CONNECT_TIMEOUT = 10
CLOSED = "the server has closed the connection"


async def chat(login: Message, host: str, port: int) -> str:
    """Take part until the user leaves; or why it ended before, or could not begin."""
    async with asyncio.timeout(CONNECT_TIMEOUT):
        reader, writer = await asyncio.open_connection(host, port)
    with closing(writer), patch_stdout():
        writer.write(encode(login))
        async with asyncio.timeout(CONNECT_TIMEOUT):
            answer = await receive(reader.readexactly, "welcome", "error")
        if answer is None:
            return CLOSED
        if answer.kind == "error":
            return answer.text
        lines = typed_lines(answer.text) if sys.stdin.isatty() else piped_lines()
        async with asyncio.TaskGroup() as tasks:
            speaking = tasks.create_task(speak(lines, writer))
            reason = await show(reader)
            if not reason and not speaking.done():
                reason = CLOSED
            speaking.cancel()
        return reason


async def show(reader: asyncio.StreamReader) -> str:
    """Print what the others say until the server closes; why, when that was not for us."""
    try:
        while (message := await receive(reader.readexactly, "line", "error")) is not None:
            if message.kind == "error":
                return message.text
            print(message.text, flush=True)
    except (OSError, BadMessage) as error:
        return str(error)
    return ""


async def speak(lines: AsyncIterator[str], writer: asyncio.StreamWriter) -> None:
    """Send what the user says, and then that there is no more, upon which the server closes."""
    # What becomes of the connection is for show() to tell.
    with suppress(OSError):
        async for line in lines:
            if line.strip() == "/quit":
                break
            # What is pasted may be several lines.
            for text in filter(None, map(str.strip, line.splitlines())):
                try:
                    writer.write(encode(Message("text", text)))
                except BadMessage as error:
                    print(f"not sent: {error}", flush=True)
            await writer.drain()
        writer.write_eof()


async def typed_lines(label: str) -> AsyncIterator[str]:
    session = PromptSession[str](f"{label}> ")
    while True:
        try:
            line = await session.prompt_async()
        except (EOFError, KeyboardInterrupt):
            return
        yield line


async def piped_lines() -> AsyncIterator[str]:
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        # A file makes nobody wait, and an event loop cannot watch it.
        for line in sys.stdin.buffer:
            yield line.decode(errors="replace")
        return
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    try:
        async for line in reader:
            yield line.decode(errors="replace")
    except ValueError:
        print("the rest is not sent: a line has more than 64 KiB", flush=True)


def address(text: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(f"//{text}")
    if not parts.hostname or not parts.port:
        raise ValueError("HOST:PORT")
    return parts.hostname, parts.port


def main() -> None:
    parser = argparse.ArgumentParser(description="Enter a chat room.")
    parser.add_argument("name")
    parser.add_argument(
        "server", nargs="?", type=address, default="127.0.0.1:9999", metavar="HOST:PORT"
    )
    arguments = parser.parse_args()
    host, port = arguments.server
    try:
        reason = asyncio.run(chat(Message("name", arguments.name), host, port))
    except OSError as error:
        reason = f"cannot connect to {host} port {port}: {str(error) or 'no answer'}"
    except ValueError as error:
        # BadMessage, or UnicodeError because of the host's name.
        reason = str(error)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(reason or None)


if __name__ == "__main__":
    main()

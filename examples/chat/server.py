"""A chat room: what one says, all others hear. A slow reader holds up nobody.

Start it, and enter the room from other terminals; Ctrl-C or SIGTERM stops it:

    python examples/chat/server.py [BIND]               (tcp://127.0.0.1:9999)
    python examples/chat/client.py NAME [HOST:PORT]     (127.0.0.1:9999)

A name that somebody in the room has already, in upper or lower case, is refused. Each member
has a queue of what it is still to be told, which a task of its own sends: a member whose queue
is full has to leave.
"""

import argparse
import asyncio
import functools
import logging
import socket
import sys
from typing import Any

from aiosocketserver import StartError, StreamRequestHandler, run
from messages import BadMessage, Message, encode, receive
from room import MAX_QUEUE, Member, Room

logger = logging.getLogger("chat")

# Seconds after each message of a member before its next one is looked at. Without them somebody
# could flood the room, and all others would be too slow for that.
PACE = 0.05
# Bytes for a member in the kernel, which by itself keeps megabytes for one that does not read.
SEND_BUFFER = 64 * 1024


class Chat(StreamRequestHandler):
    def __init__(self, *request: Any, room: Room, name_timeout: float) -> None:
        super().__init__(*request)
        self.room = room
        self.name_timeout = name_timeout

    async def setup(self) -> None:
        await super().setup()
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    async def handle(self) -> None:
        try:
            member = await self.enter()
        except BadMessage as error:
            logger.info("%s is not let in: %s", self.client_address[0], error)
            await self.wfile.write(encode(Message("error", str(error))))
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(self.listen(member))
                closing = tasks.create_task(self.close_room())
                await self.send(member)
                listening.cancel()
                closing.cancel()
        finally:
            self.room.leave(member)

    async def enter(self) -> Member:
        try:
            async with asyncio.timeout(self.name_timeout):
                message = await receive(self.rfile.readexactly, "name")
        except TimeoutError:
            raise BadMessage(f"no name came within {self.name_timeout:g} seconds") from None
        if message is None:
            raise BadMessage("no name came")
        return self.room.enter(message.text, self.client_address[0])

    async def listen(self, member: Member) -> None:
        """Pass on what a member says, until it leaves or has to."""
        reason = ""
        try:
            while message := await receive(self.rfile.readexactly, "text"):
                self.room.say(member, message.text)
                await asyncio.sleep(PACE)
        except BadMessage as error:
            reason = str(error)
        self.room.leave(member, reason)

    async def send(self, member: Member) -> None:
        """Send what a member is told, to the last word."""
        while (frame := await member.outgoing.get()) is not None:
            await self.wfile.write(frame)

    async def close_room(self) -> None:
        """Have everybody leave when the server shuts down."""
        await self.server.drain_event.wait()
        self.room.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat room.")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    parser.add_argument(
        "--name-timeout", type=float, default=10, help="seconds for a client to say its name"
    )
    arguments = parser.parse_args()
    if not arguments.bind.startswith("tcp://"):
        parser.error(f"BIND begins with tcp://: {arguments.bind}")
    logging.basicConfig(level="INFO", format="%(message)s")
    chat = functools.partial(Chat, room=Room(), name_timeout=arguments.name_timeout)
    try:
        # No time-out for those who only listen: TCP keep-alive, which is on, finds out who has
        # vanished. A member that takes nothing of what is on its way is cut by write_timeout.
        code = run(
            chat,
            arguments.bind,
            max_connections=MAX_QUEUE,
            max_connections_per_host=20,
            write_timeout=10,
            shutdown_timeout=1,
        )
    except StartError as error:
        sys.exit(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()

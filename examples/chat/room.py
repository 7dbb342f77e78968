"""Who is in the chat room, and who is told what. No input or output: nothing here waits."""

import asyncio
import logging

from messages import BadMessage, Message, encode

logger = logging.getLogger("chat")

# Messages that wait for one member. All the others may say something at the same moment, so
# that it is no less than the server's max_connections.
MAX_QUEUE = 100


class Member:
    """Somebody in the room, and what is still to be sent to them."""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.label = f"{name}@{host}"
        # Frames, which all members share; None after the last one.
        self.outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.outgoing.put_nowait(encode(Message("welcome", self.label)))

    def end(self, reason: str) -> None:
        """Send nothing more than what is in the queue, and the reason if there is one."""
        if reason:
            logger.info("%s has to leave: %s", self.label, reason)
            self.outgoing.put_nowait(encode(Message("error", reason)))
        self.outgoing.put_nowait(None)


class Room:
    """All members. A message to somebody is put into their queue, for their task to send."""

    def __init__(self) -> None:
        self._members: set[Member] = set()

    def enter(self, name: str, host: str) -> Member:
        """Let somebody in. Raises BadMessage when the name is taken."""
        if any(member.name.casefold() == name.casefold() for member in self._members):
            raise BadMessage(f"the name {name} is taken")
        member = Member(name, host)
        self._members.add(member)
        number = len(self._members)
        self._announce(f"* {member.label} has come in ({number} in the room)", member)
        return member

    def say(self, member: Member, text: str) -> None:
        """Tell the others what a member says."""
        # One that has to leave may still be heard.
        if member in self._members:
            self._tell_others(member, f"{member.label}: {text}")

    def leave(self, member: Member, reason: str = "") -> None:
        """Let a member go, for a reason if it does not want to. Nothing if it has gone."""
        if member in self._members:
            self._members.remove(member)
            member.end(reason)
            self._announce(f"* {member.label} has left", member)

    def close(self) -> None:
        """Let everybody go."""
        while self._members:
            self._members.pop().end("the room closes")

    def _announce(self, line: str, member: Member) -> None:
        logger.info("%s", line)
        self._tell_others(member, line)

    def _tell_others(self, member: Member, line: str) -> None:
        frame = encode(Message("line", line))
        others = self._members - {member}
        for other in others:
            other.outgoing.put_nowait(frame)
        for other in others:
            if other.outgoing.qsize() > MAX_QUEUE:
                self.leave(other, "too slow")

"""Messages between a parent and its workers."""

import asyncio
import socket
from typing import Any

from aiosocketserver.deploy.channel import Channel
from tests.support import until


def ignore(*_: object) -> None:
    pass


async def test_messages_arrive_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    received: list[dict[str, Any]] = []
    ended = asyncio.Event()
    sender = Channel(ours, ignore, ignore)
    receiver = Channel(theirs, received.append, ended.set)
    sender.send({"number": 1})
    sender.send({"number": 2, "text": "\n"})
    await until(lambda: len(received) == 2)
    assert received == [{"number": 1}, {"number": 2, "text": "\n"}]
    sender.close()
    await ended.wait()
    receiver.close()


async def test_a_message_that_does_not_fit_goes_on_when_there_is_room() -> None:
    ours, theirs = socket.socketpair()
    received: list[dict[str, Any]] = []
    sender = Channel(ours, ignore, ignore)
    long = "x" * 1_000_000
    sender.send({"text": long})
    # Who has not taken the one before misses this one, and gets no torn one.
    sender.send({"text": "too soon"})
    receiver = Channel(theirs, received.append, ignore)
    await until(lambda: received)
    assert received == [{"text": long}]
    sender.send({"text": "after"})
    await until(lambda: len(received) == 2)
    assert received[1] == {"text": "after"}
    sender.send({"text": long})
    sender.close()
    # Into nothing, without an error.
    sender.send({"text": "late"})
    receiver.close()


async def test_what_came_before_the_end_is_taken() -> None:
    ours, theirs = socket.socketpair()
    received: list[dict[str, Any]] = []
    ends: list[bool] = []
    theirs.sendall(b'{"number": 1}\n{"number": 2}\n{"num')
    channel = Channel(ours, received.append, lambda: ends.append(True))
    channel.drain()
    assert received == [{"number": 1}, {"number": 2}]
    # A child of the worker may still have the other end.
    assert ends == []
    theirs.close()


async def test_the_end_is_told_once_also_when_it_is_a_reset() -> None:
    ours, theirs = socket.socketpair()
    ends: list[bool] = []
    channel = Channel(ours, ignore, lambda: ends.append(True))
    channel.send({"number": 1})
    # With something unread, the other side's end is a reset here.
    theirs.close()
    await until(lambda: ends)
    channel.send({"number": 2})
    channel.close()
    assert ends == [True]


async def test_who_sends_to_nobody_does_not_fail() -> None:
    ours, theirs = socket.socketpair()
    ends: list[bool] = []
    channel = Channel(ours, ignore, lambda: ends.append(True))
    theirs.close()
    channel.send({"number": 1})
    await until(lambda: ends)
    channel.close()

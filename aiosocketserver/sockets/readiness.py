"""Whether a descriptor is ready, asked once or awaited without a socket object of ours."""

from __future__ import annotations

import asyncio
import select


def is_ready(descriptor: int, events: int) -> bool:
    """Whether a descriptor is ready for one of `events` (`select.POLLIN`...), or broken."""
    return wait_until_ready(descriptor, events, 0)


def wait_until_ready(descriptor: int, events: int, timeout: float) -> bool:
    """Block until it is, for `timeout` seconds at the most; whether it is."""
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(timeout * 1000))


async def until_readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Return when there is input. Raises NotImplementedError as the loop's `add_reader`."""
    ready = loop.create_future()
    loop.add_reader(descriptor, _set_once, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def until_writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Return when there is room for output."""
    ready = loop.create_future()
    loop.add_writer(descriptor, _set_once, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

"""What a handler awaits are ordinary coroutines, which go on in their task's own context."""

import asyncio
import contextvars
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aiosocketserver.sockets.stream import StreamSocket
from tests.support import connected, fill

CALLS: dict[str, Callable[[StreamSocket], Coroutine[Any, Any, object]]] = {
    "recv": lambda request: request.recv(1),
    "recv_into": lambda request: request.recv_into(bytearray(1)),
    "send": lambda request: request.send(b"x"),
    "sendall": lambda request: request.sendall(b"x"),
    "sendmsg": lambda request: request.sendmsg([b"x"]),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def blocked_pair() -> tuple[socket.socket, socket.socket, int]:
    """A connection on which neither a receive nor a send can go on; how many bytes are in it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs, fill(ours)


@each_call
async def test_asyncio_takes_it_wherever_it_takes_a_coroutine(
    call: Callable[[StreamSocket], Coroutine[Any, Any, object]],
) -> None:
    async def in_a_timeout(request: StreamSocket) -> object:
        async with asyncio.timeout(10):
            return await call(request)

    async def in_a_group(request: StreamSocket) -> object:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(call(request))
        return task.result()

    async def gathered(request: StreamSocket) -> object:
        return (await asyncio.gather(call(request)))[0]

    async def shielded(request: StreamSocket) -> object:
        return await asyncio.shield(call(request))

    async def waited_for(request: StreamSocket) -> object:
        return await asyncio.wait_for(call(request), 10)

    for way in call, in_a_timeout, in_a_group, gathered, shielded, waited_for:
        ours, theirs, filled = blocked_pair()
        async with connected((ours, theirs)) as (request, peer):
            task = asyncio.create_task(way(request))
            for _ in range(3):
                await asyncio.sleep(0)
            assert not task.done()
            peer.sock.send(b"y")
            await peer.receive(filled)
            assert await task in (b"y", 1, None)


@each_call
async def test_asyncio_can_cancel_it_wherever_it_takes_a_coroutine(
    call: Callable[[StreamSocket], Coroutine[Any, Any, object]],
) -> None:
    ours, theirs, _ = blocked_pair()
    async with connected((ours, theirs)) as (request, _peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(request), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await call(request)
        gathering = asyncio.gather(call(request))
        await asyncio.sleep(0)
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering

        async def in_a_group_that_fails() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(call(request))
                await asyncio.sleep(0)
                raise LookupError

        with pytest.raises(ExceptionGroup) as caught:
            await in_a_group_that_fails()
        assert caught.group_contains(LookupError)
        request._abort()


@each_call
async def test_a_forgotten_await_warns(
    call: Callable[[StreamSocket], Coroutine[Any, Any, object]],
) -> None:
    async with connected() as (request, _):
        with pytest.warns(RuntimeWarning, match="was never awaited"):
            call(request)  # type: ignore[unused-coroutine]


@each_call
async def test_it_is_a_coroutine_and_the_socket_is_not_a_future(
    call: Callable[[StreamSocket], Coroutine[Any, Any, object]],
) -> None:
    async with connected() as (request, _):
        coroutine = call(request)
        assert asyncio.iscoroutine(coroutine)
        coroutine.close()
        something: object = request
        assert not asyncio.isfuture(something)


# --- context variables ---

var = contextvars.ContextVar("var", default="outside")


async def test_each_task_goes_on_in_its_own_context() -> None:
    async with connected() as (first, first_peer), connected() as (second, second_peer):

        async def handle(request: StreamSocket, name: str) -> list[str]:
            found: list[str] = []
            var.set(f"{name} 0")
            for n in range(1, 5):
                await request.recv(1)
                found.append(var.get())
                var.set(f"{name} {n}")
            return found

        tasks = [
            asyncio.create_task(handle(first, "first")),
            asyncio.create_task(handle(second, "second")),
        ]
        await asyncio.sleep(0)
        for _ in range(4):
            for peer in first_peer, second_peer:
                await peer.send(b"x")
                await asyncio.sleep(0)
        assert await asyncio.gather(*tasks) == [
            ["first 0", "first 1", "first 2", "first 3"],
            ["second 0", "second 1", "second 2", "second 3"],
        ]
        assert var.get() == "outside"


async def test_a_task_that_takes_the_socket_over_has_its_own_context() -> None:
    """The reader stays registered in the context of the task that waited first."""
    async with connected() as (request, peer):

        async def receive(name: str) -> str:
            var.set(name)
            await request.recv(1)
            return var.get()

        for name in "first", "second":
            task = asyncio.create_task(receive(name))
            await asyncio.sleep(0)
            await peer.send(b"x")
            assert await task == name


async def test_a_task_that_is_woken_by_room_to_send_has_its_own_context() -> None:
    ours, theirs, filled = blocked_pair()
    async with connected((ours, theirs)) as (request, peer):

        async def send() -> str:
            var.set("sender")
            await request.sendall(b"x")
            return var.get()

        task = asyncio.create_task(send())
        await asyncio.sleep(0)
        await peer.receive(filled)
        assert await task == "sender"


async def test_a_context_given_to_the_task_is_used() -> None:
    context = contextvars.copy_context()
    context.run(var.set, "given")
    async with connected() as (request, peer):

        async def handle() -> str:
            await request.recv(1)
            before = var.get()
            var.set("changed")
            return before

        task = asyncio.get_running_loop().create_task(handle(), context=context)
        await asyncio.sleep(0)
        await peer.send(b"x")
        assert await task == "given"
        assert context[var] == "changed"


@pytest.mark.parametrize("how", ["cancel", "close", "time out"])
async def test_a_failed_wait_ends_in_the_tasks_own_context(how: str) -> None:
    async with connected() as (request, _):
        request.settimeout(0.01 if how == "time out" else None)

        async def handle() -> str:
            var.set("handler")
            try:
                await request.recv(1)
            except (OSError, asyncio.CancelledError):
                pass
            return var.get()

        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        if how == "cancel":
            task.cancel()
        elif how == "close":
            request.close()
        assert await task == "handler"


async def test_a_resumed_task_is_the_current_one() -> None:
    async with connected() as (request, peer):

        async def handle() -> asyncio.Task[Any] | None:
            await request.recv(1)
            # And it may start others, which run at once where tasks are eager.
            await asyncio.gather(asyncio.sleep(0), request.sendall(b"y"))
            return asyncio.current_task()

        task = asyncio.create_task(handle())
        await asyncio.sleep(0)
        await peer.send(b"x")
        assert await task is task
        assert await peer.receive(1) == b"y"

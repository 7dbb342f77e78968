"""The awaitable behind every wait for a socket, and its time-outs, with exact times."""

import asyncio
import contextvars

import pytest

from aiosocketserver.sockets.waiter import GIVE_WAY, Waiter


async def wait(waiter: Waiter) -> str:
    await waiter
    return "resumed"


async def test_a_task_is_resumed_inside_the_callback() -> None:
    loop = asyncio.get_running_loop()
    waiter = Waiter(loop)
    ran: list[str] = []

    async def handle() -> None:
        await waiter
        ran.append("task")

    def callback() -> None:
        assert waiter.resume()
        ran.append("callback")

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    assert waiter.waiting
    loop.call_soon(callback)
    await task
    assert ran == ["task", "callback"]
    assert not waiter.waiting


async def test_it_serves_one_wait_after_another() -> None:
    loop = asyncio.get_running_loop()
    waiter = Waiter(loop)
    for _ in range(3):
        task = asyncio.create_task(wait(waiter))
        await asyncio.sleep(0)
        loop.call_soon(waiter.resume)
        assert await task == "resumed"


async def test_nobody_waiting_is_told() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    assert not waiter.waiting
    assert not waiter.resume()
    assert not waiter.fail(LookupError())
    assert not waiter.cancel()
    # And none of it is kept for the next wait.
    task = asyncio.create_task(wait(waiter))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(waiter.resume)
    assert await task == "resumed"


async def test_a_failure_is_raised_on_the_next_turn_also_from_inside_another_task() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    task = asyncio.create_task(wait(waiter))
    await asyncio.sleep(0)
    assert waiter.fail(LookupError("because"))
    assert not task.done()
    assert not waiter.waiting
    with pytest.raises(LookupError, match="because"):
        await task


async def test_a_failure_never_runs_the_task_inside_its_caller() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    ran: list[str] = []

    async def handle() -> None:
        with pytest.raises(LookupError):
            await waiter
        ran.append("task")

    def fail() -> None:
        waiter.fail(LookupError())
        ran.append("caller")

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(fail)
    await task
    assert ran == ["caller", "task"]


async def test_the_first_to_wake_a_task_wins() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    task = asyncio.create_task(wait(waiter))
    await asyncio.sleep(0)
    assert waiter.fail(LookupError("first"))
    assert not waiter.fail(LookupError("second"))
    assert not waiter.resume()
    with pytest.raises(LookupError, match="first"):
        await task


async def test_a_cancel_wins_over_a_failure_that_came_before_it() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    task = asyncio.create_task(wait(waiter))
    await asyncio.sleep(0)
    waiter.fail(LookupError("lost"))
    task.cancel("because")
    with pytest.raises(asyncio.CancelledError, match="because"):
        await task
    # The failure was that wait's, not the next one's.
    task = asyncio.create_task(wait(waiter))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(waiter.resume)
    assert await task == "resumed"


@pytest.mark.parametrize("message", [None, "because"])
async def test_a_cancel_is_delivered_with_its_message(message: str | None) -> None:
    waiter = Waiter(asyncio.get_running_loop())
    task = asyncio.create_task(wait(waiter))
    await asyncio.sleep(0)
    task.cancel(message) if message else task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ((message,) if message else ())


async def test_a_task_that_was_cancelled_before_it_waits_does_not_wait() -> None:
    waiter = Waiter(asyncio.get_running_loop())

    async def handle() -> None:
        running = asyncio.current_task()
        assert running is not None
        running.cancel("because")
        await waiter

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError, match="because"):
        await task


async def test_a_callback_added_without_a_context_gets_a_copy_of_the_current_one() -> None:
    var = contextvars.ContextVar("var", default="unset")
    waiter = Waiter(asyncio.get_running_loop())
    found: list[str] = []
    var.set("before")
    waiter.add_done_callback(lambda _: found.append(var.get()))
    var.set("after")
    waiter.resume()
    assert found == ["before"]


async def test_a_waiter_belongs_to_one_loop() -> None:
    waiter = Waiter(asyncio.get_running_loop())

    def elsewhere() -> None:
        async def main() -> None:
            with pytest.raises(RuntimeError, match="different loop"):
                await asyncio.create_task(wait(waiter))

        asyncio.run(main())

    await asyncio.to_thread(elsewhere)


async def test_giving_way_lets_the_others_run_once() -> None:
    order: list[str] = []

    async def handle(name: str) -> None:
        for n in range(3):
            order.append(f"{name}{n}")
            await GIVE_WAY

    await asyncio.gather(handle("a"), handle("b"))
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]

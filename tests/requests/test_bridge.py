"""From a legacy handler to the loop, and from a coroutine handler to a thread."""

import asyncio
import socketserver
import threading
from collections.abc import Callable
from contextvars import ContextVar
from queue import SimpleQueue
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.requests import bridge
from tests.support import ask, client_of

colour: ContextVar[str] = ContextVar("colour", default="none")


class Calling(socketserver.StreamRequestHandler):
    """Answers with what `call` returns or raises."""

    server: aiosocketserver.ThreadingTCPServer  # type: ignore[assignment]

    def call(self) -> object:
        raise NotImplementedError

    def handle(self) -> None:
        try:
            answer = str(self.call())
        except Exception as error:  # noqa: BLE001 - it is the answer
            answer = repr(error)
        self.wfile.write(answer.encode())


def threading_server(
    call: Callable[[Calling], object], **options: Any
) -> aiosocketserver.ThreadingTCPServer:
    handler = type("Handler", (Calling,), {"call": call})
    return aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), handler, **options)


async def answer_of(call: Callable[[Calling], object]) -> str:
    async with threading_server(call) as server:
        await server.start_serving()
        return (await ask(server.server_address)).decode()


def idle_server() -> aiosocketserver.TCPServer:
    class Handler(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            pass

    return aiosocketserver.TCPServer(("127.0.0.1", 0), Handler)


# --- run_on_loop ---


async def test_legacy_handler_gets_the_coroutines_result() -> None:
    threads = []

    async def add(one: int, *, two: int) -> int:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())
        return one + two

    assert await answer_of(lambda self: self.server.run_on_loop(add, 1, two=2)) == "3"
    assert threads == [threading.current_thread()]


async def test_legacy_handler_gets_the_coroutines_exception() -> None:
    async def fail() -> None:
        raise LookupError("as asked")

    answer = await answer_of(lambda self: self.server.run_on_loop(fail))
    assert answer == "LookupError('as asked')"


async def test_coroutine_on_the_loop_sees_the_handlers_context() -> None:
    async def tell() -> str:
        return colour.get()

    def call(self: Calling) -> str:
        colour.set("red")
        return self.server.run_on_loop(tell)

    assert await answer_of(call) == "red"


async def test_cancelled_coroutine_is_told_to_the_handler() -> None:
    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert "was cancelled" in await answer_of(lambda self: self.server.run_on_loop(cancel))


async def test_run_on_loop_on_the_loops_own_thread_is_an_error() -> None:
    async with idle_server() as server:
        await server.start_serving()
        with pytest.raises(RuntimeError, match="await the coroutine there"):
            server.run_on_loop(asyncio.sleep, 0)


def test_run_on_loop_before_the_start_is_an_error() -> None:
    server = idle_server()
    with pytest.raises(RuntimeError, match="has not been started"):
        server.run_on_loop(asyncio.sleep, 0)
    server.server_close()


def test_run_on_loop_after_the_loops_end_is_an_error() -> None:
    server = idle_server()

    async def start() -> None:
        await server.start_serving()

    asyncio.run(start())
    with pytest.raises(RuntimeError, match="loop has ended"):
        server.run_on_loop(asyncio.sleep, 0)
    server.server_close()


async def test_shutdown_from_a_legacy_handler_does_not_wait_for_it() -> None:
    def call(self: Calling) -> str:
        self.server.run_on_loop(self.server.shutdown, None)
        return "was shut down"

    async with threading_server(call) as server:
        serving = asyncio.create_task(server.serve_forever())
        assert await ask(server.server_address) == b"was shut down"
        await serving


async def test_shutdown_itself_is_refused_in_a_legacy_handler() -> None:
    answer = await answer_of(lambda self: self.server.shutdown())
    assert "run_on_loop(server.shutdown)" in answer


async def test_shutdown_cuts_what_a_thread_waits_for_on_the_loop() -> None:
    begun = asyncio.Event()
    errors: SimpleQueue[Exception] = SimpleQueue()

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    def call(self: Calling) -> None:
        try:
            self.server.run_on_loop(wait)
        except RuntimeError as error:
            errors.put(error)

    async with threading_server(call) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await begun.wait()
            await server.shutdown(timeout=0)
    assert "was cancelled" in str(errors.get_nowait())


async def test_shutdown_cuts_what_a_thread_is_about_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()
    errors: SimpleQueue[Exception] = SimpleQueue()
    to_loop = asyncio.run_coroutine_threadsafe

    async def wait() -> None:
        begun.set()
        await asyncio.Event().wait()

    def call(self: Calling) -> None:
        def slowly(*arguments: Any) -> Any:
            future = to_loop(*arguments)
            self.request.recv(1)  # ends when the connection is cut
            return future

        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slowly)
        try:
            self.server.run_on_loop(wait)
        except RuntimeError as error:
            errors.put(error)

    async with threading_server(call) as server:
        await server.start_serving()
        async with client_of(server.server_address):
            await begun.wait()
            report = await server.shutdown(timeout=0)
    assert (report.cut, report.abandoned) == (1, 0)
    assert "was cancelled" in str(errors.get_nowait())


def call_from_a_thread(
    server: aiosocketserver.TCPServer, function: Callable[..., Any]
) -> SimpleQueue[Any]:
    results: SimpleQueue[Any] = SimpleQueue()

    def call() -> None:
        try:
            results.put(server.run_on_loop(function))
        except RuntimeError as error:
            results.put(error)

    threading.Thread(target=call).start()
    return results


def test_waiting_thread_is_released_when_the_loop_ends() -> None:
    server = idle_server()
    results: SimpleQueue[Any] = SimpleQueue()

    async def main() -> None:
        nonlocal results
        begun = asyncio.Event()

        async def wait() -> None:
            begun.set()
            await asyncio.Event().wait()

        await server.start_serving()
        results = call_from_a_thread(server, wait)
        await begun.wait()

    asyncio.run(main())
    assert "was cancelled" in str(results.get(timeout=10))
    server.server_close()


def test_waiting_thread_is_released_by_a_loop_that_is_closed_without_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge, "_LOOP_CHECK", 0.01)
    server = idle_server()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start_serving())
    submitted = threading.Event()
    call_soon_threadsafe = loop.call_soon_threadsafe

    def call(*args: Any, **kwargs: Any) -> Any:
        handle = call_soon_threadsafe(*args, **kwargs)
        submitted.set()
        return handle

    monkeypatch.setattr(loop, "call_soon_threadsafe", call)
    results = call_from_a_thread(server, lambda: asyncio.sleep(0))
    assert submitted.wait(10)
    loop.close()
    assert "ended before" in str(results.get(timeout=10))
    server.server_close()


# --- run_in_thread ---


async def test_blocking_function_runs_in_a_thread() -> None:
    def add(one: int, *, two: int) -> tuple[int, threading.Thread]:
        return one + two, threading.current_thread()

    async with idle_server() as server:
        result, thread = await server.run_in_thread(add, 1, two=2)
    assert result == 3
    assert thread is not threading.current_thread()


async def test_coroutine_handler_runs_a_blocking_function() -> None:
    class Handler(aiosocketserver.StreamRequestHandler):
        async def handle(self) -> None:
            colour.set("red")
            assert isinstance(self.server, aiosocketserver.TCPServer)
            await self.wfile.write((await self.server.run_in_thread(colour.get)).encode())

    async with aiosocketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"red"


async def test_function_cannot_change_the_callers_context() -> None:
    async with idle_server() as server:
        await server.run_in_thread(colour.set, "red")
        assert colour.get() == "none"
        assert await server.run_in_thread(colour.get) == "none"


@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
async def test_functions_exception_is_raised(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error("as asked")

    async with idle_server() as server:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(error, match="as asked"):
            await server.run_in_thread(fail)


async def test_functions_stop_iteration_becomes_a_runtime_error() -> None:
    def fail() -> None:
        raise StopIteration("as asked")

    async with idle_server() as server:
        with pytest.raises(RuntimeError, match="raised StopIteration") as caught:
            await server.run_in_thread(fail)
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_cancelled_call_leaves_its_function_running() -> None:
    begun, released, ended = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        assert released.wait(10)
        ended.set()

    async with idle_server() as server:
        call = asyncio.create_task(server.run_in_thread(block))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not ended.is_set()
        released.set()
        assert await server.run_in_thread(ended.wait, 10)


async def test_max_threads_makes_further_calls_wait() -> None:
    running = 0
    most = 0
    both = threading.Barrier(2)
    lock = threading.Lock()

    def block() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(10)
        with lock:
            running -= 1

    async with idle_server() as server:
        server.max_threads = 2
        await asyncio.gather(*(server.run_in_thread(block) for _ in range(6)))
    assert most == 2


async def test_cancelled_call_keeps_its_place_until_its_function_ends() -> None:
    begun, released = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        assert released.wait(10)

    async with idle_server() as server:
        server.max_threads = 1
        first = asyncio.create_task(server.run_in_thread(block))
        await asyncio.to_thread(begun.wait, 10)
        first.cancel()
        second = asyncio.create_task(server.run_in_thread(released.is_set))
        await asyncio.wait([first])
        for _ in range(10):
            await asyncio.sleep(0)
        assert not second.done()
        released.set()
        assert await second


async def test_a_call_without_a_limit_makes_no_room_for_those_with_one() -> None:
    begun, second_begun, released = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        assert released.wait(10)

    async with idle_server() as server:
        for server.max_threads in (1, None, 1):
            assert await server.run_in_thread(int) == 0
        first = asyncio.create_task(server.run_in_thread(block))
        assert await asyncio.to_thread(begun.wait, 10)
        second = asyncio.create_task(server.run_in_thread(second_begun.set))
        assert not await asyncio.to_thread(second_begun.wait, 0.2)
        released.set()
        await asyncio.gather(first, second)


def test_function_may_end_after_its_loop() -> None:
    server = idle_server()
    begun, released = threading.Event(), threading.Event()
    threads: SimpleQueue[threading.Thread] = SimpleQueue()

    def block() -> None:
        threads.put(threading.current_thread())
        begun.set()
        assert released.wait(10)

    async def main() -> None:
        call = asyncio.create_task(server.run_in_thread(block))
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        await asyncio.wait([call])

    asyncio.run(main())
    server.server_close()
    released.set()
    thread = threads.get(timeout=10)
    thread.join(10)
    assert not thread.is_alive()

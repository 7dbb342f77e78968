"""What a reused thread has of its own is what a new one has, whatever an earlier request did."""

import asyncio
import contextlib
import gc
import os
import socketserver
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import aiosocketserver
from tests.compat_support import IMPLEMENTATIONS, ask, implementation, serving

Ask = Callable[[Callable[[], object]], bytes]


@pytest.fixture(params=[*IMPLEMENTATIONS, "native on asyncio", "native on uvloop", "run_in_thread"])
def request_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """A function that has a request call one, and returns what that returned, as text.

    One request follows the other in the same thread, but for the standard library.
    """
    calls: list[Callable[[], object]] = []
    threads: list[int] = []

    def call() -> bytes:
        threads.append(threading.get_ident())
        return str(calls.pop()()).encode()

    class Legacy(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(call())

    class InThread(aiosocketserver.BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(await self.server.run_in_thread(call))

    with contextlib.ExitStack() as stack:
        name = request.param
        if name in IMPLEMENTATIONS:
            module = implementation(name, monkeypatch)
            server = stack.enter_context(
                serving(module.ThreadingTCPServer(("127.0.0.1", 0), Legacy), 0.01)
            )
            address = server.server_address
            pool = None if module is socketserver else server._aiosocketserver.threads
        else:
            server_class, handler = (
                (aiosocketserver.TCPServer, InThread)
                if name == "run_in_thread"
                else (aiosocketserver.ThreadingTCPServer, Legacy)
            )
            server = server_class(("127.0.0.1", 0), handler)
            loop = "uvloop" if name.endswith("uvloop") else "asyncio"
            address = stack.enter_context(aiosocketserver.serving(server, loop=loop))
            pool = server._threads

        def request_(function: Callable[[], object]) -> bytes:
            calls.append(function)
            answer = ask(address)
            # Until its thread is idle, so that the next request has the same one.
            while pool is not None and pool.busy:
                waiting.wait(0.001)
            return answer

        waiting = threading.Event()
        yield request_
        if pool is not None:
            assert len(threads) > 1
            assert len(set(threads)) == 1


@pytest.fixture(autouse=True)
def _hooks_of_threading() -> Iterator[None]:
    before = threading.gettrace(), threading.getprofile()
    set_hooks(None, None)
    yield
    set_hooks(*before)


def set_hooks(trace: Any, profile: Any) -> None:
    threading.settrace(trace)
    threading.setprofile(profile)


def trace(frame: FrameType, event: str, arg: object) -> Any:
    return None


def profile(frame: FrameType, event: str, arg: object) -> None:
    pass


def hooks() -> tuple[bool, bool]:
    """Whether the thread has `trace`, and `profile`; fails when it has others."""
    assert sys.gettrace() in (None, trace)
    assert sys.getprofile() in (None, profile)
    return sys.gettrace() is trace, sys.getprofile() is profile


def test_a_trace_and_a_profile_that_are_set_later_reach_the_next_request(request_of: Ask) -> None:
    for tracing, profiling in [(0, 0), (1, 0), (1, 1), (0, 1), (1, 0), (0, 0)]:
        set_hooks(trace if tracing else None, profile if profiling else None)
        expected = str((bool(tracing), bool(profiling))).encode()
        assert request_of(hooks) == expected
        assert request_of(hooks) == expected


if sys.version_info >= (3, 12):

    def test_a_trace_that_is_set_in_all_threads_is_cleared_as_well(request_of: Ask) -> None:
        def set_in_all(trace: Any, profile: Any) -> None:
            threading.settrace_all_threads(trace)
            threading.setprofile_all_threads(profile)

        before = sys.gettrace(), sys.getprofile()
        assert request_of(hooks) == b"(False, False)"
        try:
            set_in_all(trace, profile)
            assert request_of(hooks) == b"(True, True)"
            assert request_of(hooks) == b"(True, True)"
            set_in_all(None, None)
            assert request_of(hooks) == b"(False, False)"
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])


def test_what_a_handler_sets_for_itself_is_gone_with_its_request(request_of: Ask) -> None:
    class Tracer:
        def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
            seen.add(frame.f_code.co_name)

    def set_both() -> None:
        tracer = Tracer()
        kept.append(weakref.ref(tracer))
        sys.settrace(tracer)
        sys.setprofile(tracer)

    seen: set[str] = set()
    kept: list[weakref.ref[Tracer]] = []
    request_of(set_both)
    assert request_of(hooks) == b"(False, False)"
    # Neither the next request nor what comes between the two is its to see.
    assert seen
    assert not seen & {"hooks", "_next_job", "_end"}
    for _ in range(100):
        gc.collect()
        if kept[0]() is None:
            break
        threading.Event().wait(0.05)
    assert kept[0]() is None


def test_a_trace_that_replaces_itself_begins_anew_in_each_request(request_of: Ask) -> None:
    """As coverage's, which installs itself at the first call in a thread."""

    def install(frame: FrameType, event: str, arg: object) -> Any:
        installed.append(frame.f_code.co_name)
        sys.settrace(trace)
        return None

    installed: list[str] = []
    assert request_of(lambda: sys.gettrace()) == b"None"
    threading.settrace(install)
    assert request_of(hooks) == b"(True, False)"
    assert request_of(hooks) == b"(True, False)"
    assert len(installed) == 2


def test_a_loop_that_a_request_has_set_is_not_the_next_one_s(request_of: Ask) -> None:
    def use_a_loop() -> str:
        try:
            loop = asyncio.get_event_loop()
            found = "found a loop"
        except RuntimeError:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            found = "made a loop"
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return found

    for _ in range(3):
        assert request_of(use_a_loop) == b"made a loop"


def test_what_a_request_puts_on_its_thread_is_not_there_in_the_next_one(request_of: Ask) -> None:
    def remember() -> bool:
        thread: Any = threading.current_thread()
        known = hasattr(thread, "user")
        thread.user = "somebody"
        thread.name = "somebody's"
        return known

    for _ in range(3):
        assert request_of(remember) == b"False"


# A program that is measured from some moment on

PROGRAM = """
import socket, socketserver as standard, sys, threading
import coverage
import aiosocketserver
from aiosocketserver import compat

class Handler(standard.BaseRequestHandler):
    def handle(self):
        answer()

def answer():
    done.release()  # the line

def request():
    with socket.create_connection(address) as client:
        assert done.acquire(timeout=20)
        client.recv(1)

done = threading.Semaphore(0)
{serve}
request()
measured = coverage.Coverage(data_file=None, config_file=False, include=[__file__])
measured.start()
request()
request()
measured.stop()
{end}
lines = measured.get_data().lines(__file__) or []
with open(__file__) as source:
    texts = source.read().splitlines()
print(any("# the line" in texts[number - 1] for number in lines))
"""

OF_THE_STANDARD_LIBRARY = """
class Server({module}.ThreadingTCPServer):
    max_threads = 1  # so that one thread serves all
server = Server(("127.0.0.1", 0), Handler)
address = server.server_address
threading.Thread(target=server.serve_forever, args=(0.01,)).start()
"""
NATIVE = """
server = aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, max_threads=1)
serving = aiosocketserver.serving(server, loop="asyncio")
address = serving.__enter__()
"""
SERVERS = {
    "socketserver": (OF_THE_STANDARD_LIBRARY.format(module="standard"), "server.shutdown()"),
    "compat": (OF_THE_STANDARD_LIBRARY.format(module="compat"), "server.shutdown()"),
    "native": (NATIVE, "serving.__exit__(None, None, None)"),
}


@pytest.mark.parametrize("name", SERVERS)
def test_coverage_that_begins_later_sees_the_handlers(name: str, tmp_path: Any) -> None:
    serve, end = SERVERS[name]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(serve=serve, end=end))
    done = subprocess.run(
        [sys.executable, str(program)],
        env={key: value for key, value in os.environ.items() if "COVERAGE" not in key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr

"""A signal handler raises while a thread for a request begins: Ctrl-C under load, as a rule."""

import asyncio
import socketserver
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from aiosocketserver.requests import threads
from tests.compat_support import BOUND, LOOP_NAMES, ask, in_thread

LOCALHOST = ("127.0.0.1", 0)


class Alarm(Exception):
    """What a program's handler of SIGALRM raises."""


@pytest.fixture(params=[KeyboardInterrupt, SystemExit, Alarm])
def error(request: pytest.FixtureRequest) -> type[BaseException]:
    return request.param  # type: ignore[no-any-return]


class Begun:
    """Has the thread that starts another one interrupted when that has begun its job."""

    def __init__(self, patch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
        self._begun = threading.Event()
        self._over = threading.Event()
        start = threads._Worker.start

        def interrupted(worker: threads._Worker) -> None:
            start(worker)
            assert self._begun.wait(BOUND)
            patch.setattr(threads._Worker, "start", start)
            threading.Timer(0.05, self._over.set).start()
            raise error

        patch.setattr(threads._Worker, "start", interrupted)

    def wait(self) -> None:
        """In the job: be there until the other thread has dealt with its error."""
        self._begun.set()
        assert self._over.wait(BOUND)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> Begun:
    return Begun(monkeypatch, error)


def server_of(base: type, begun: Begun) -> Any:
    """One whose handler is interrupted as above, and which keeps what is done to its requests."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            begun.wait()
            self.request.sendall(b"served")

    class Server(base):  # type: ignore[misc]
        shut_down_by: list[str]

        def shutdown_request(self, request: Any) -> None:
            self.shut_down_by.append(threading.current_thread().name)
            super().shutdown_request(request)

        def handle_error(self, request: Any, client_address: Any) -> None:
            self.errors.append(1)

    server = Server(LOCALHOST, Handler)
    server.shut_down_by, server.errors = [], []
    return server


def answered(address: Any, then: Callable[[], object]) -> None:
    assert ask(address) == b"served"
    then()


@pytest.mark.parametrize("loop", LOOP_NAMES)
def test_compat_ends_with_the_interruption_and_the_thread_serves_on(
    loop: str, begun: Begun, error: type[BaseException]
) -> None:
    with server_of(compat.ThreadingTCPServer, begun) as server:
        server.loop_factory = loop
        with in_thread(lambda: answered(server.server_address, server.shutdown)):
            if error is Alarm:
                # To socketserver an error of process_request(), for handle_error().
                server.serve_forever()
            else:
                with pytest.raises(error):
                    server.serve_forever()
    assert server.errors == [1] * (error is Alarm)
    (thread,) = server.shut_down_by
    assert thread.startswith("Thread-")


def test_the_core_ends_with_the_interruption_and_the_thread_serves_on(
    begun: Begun, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def end(server: Any) -> None:
        assert await asyncio.to_thread(ask, server.server_address) == b"served"
        if error is Alarm:
            await server.shutdown()

    async def serve() -> None:
        async with server_of(aiosocketserver.ThreadingTCPServer, begun) as server:
            servers.append(server)
            ending = asyncio.create_task(end(server))
            await server.serve_forever()
            await ending

    servers: list[Any] = []
    if error is Alarm:
        asyncio.run(serve())
        assert "a thread serves ('127.0.0.1', " in caplog.text
        assert "although its start was interrupted" in caplog.text
    else:
        with pytest.raises(error):
            asyncio.run(serve())
    (server,) = servers
    assert server.errors == []
    (thread,) = server.shut_down_by
    assert thread.startswith("Thread-")
    assert server.statistics.finished == 1

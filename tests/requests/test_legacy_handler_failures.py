"""A legacy handler whose setup, handle or finish fails, or returns what nobody would await."""

import logging
import os
import socketserver
from typing import Any

import pytest

import aiosocketserver
from tests.compat_support import ask as ask_blocking
from tests.compat_support import serving
from tests.support import ask

LOCALHOST = ("127.0.0.1", 0)


class FailsIn(socketserver.BaseRequestHandler):
    step: str

    def setup(self) -> None:
        self.request.sendall(b"setup ")
        self._fail("setup")

    def handle(self) -> None:
        self.request.sendall(b"handle ")
        self._fail("handle")

    def finish(self) -> None:
        self.request.sendall(b"finish ")
        self._fail("finish")

    def _fail(self, step: str) -> None:
        if step in self.step.split():
            raise ValueError(step)


class QuietServer(socketserver.ThreadingTCPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.mark.parametrize("step", ["setup", "handle", "finish", "handle finish"])
async def test_the_steps_after_one_that_fails_are_socketserver_s(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler = type("Handler", (FailsIn,), {"step": step})
    with serving(QuietServer(LOCALHOST, handler), 0.01) as standard:
        expected = ask_blocking(standard.server_address)
    async with aiosocketserver.ThreadingTCPServer(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == expected
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == step.split()[-1]


async def work() -> None:
    raise AssertionError("nobody runs this")


@pytest.mark.parametrize(
    "server_class",
    [
        aiosocketserver.ThreadingTCPServer,
        aiosocketserver.GreenletTCPServer,
        pytest.param(
            aiosocketserver.ForkingTCPServer,
            marks=pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
        ),
    ],
    ids=["threads", "greenlets", "children"],
)
@pytest.mark.parametrize("step", ["setup", "handle", "finish"])
async def test_each_step_that_returns_an_awaitable_is_reported(
    server_class: Any, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = {"handle": lambda handler: None, step: lambda handler: work()}
    handler = type("Handler", (socketserver.BaseRequestHandler,), plain)
    handled: list[int] = []

    class Server(server_class):  # type: ignore[misc]
        def handle_error(self, request: Any, client_address: Any) -> None:
            handled.append(os.getpid())
            super().handle_error(request, client_address)

    async with Server(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        await server.shutdown()
        assert server.statistics.handlers_failed == 1
    if server_class is aiosocketserver.ForkingTCPServer:
        # The child has told it.
        return
    assert handled == [os.getpid()]
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is TypeError
    assert f"Handler.{step}() is a plain function that returned" in str(record.exc_info[1])

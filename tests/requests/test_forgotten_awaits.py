"""An override that forgets an await is an error that is told, not a silent close."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, TCPServer
from tests.support import ask

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """What the package has logged."""
    caplog.set_level(logging.DEBUG, "aiosocketserver")
    return lambda: [r for r in caplog.records if r.name == "aiosocketserver"]


async def counted(server: TCPServer) -> tuple[int, int]:
    await server.shutdown()
    return server.statistics.clients_vanished, server.statistics.handlers_failed


class Answering(BaseRequestHandler):
    async def handle(self) -> None:
        await self.request.sendall(b"answer")


class FinishForgets(TCPServer):
    async def finish_request(self, request: Any, client_address: Any) -> None:
        self.RequestHandlerClass(request, client_address, self)


class PlainFinishForgets(TCPServer):
    def finish_request(self, request: Any, client_address: Any) -> None:
        super().finish_request(request, client_address)


class ProcessForgets(TCPServer):
    # As it is written for socketserver.
    def process_request(self, request: Any, client_address: Any) -> None:
        self.finish_request(request, client_address)
        self.shutdown_request(request)


class CoroutineProcessForgets(TCPServer):
    async def process_request(self, request: Any, client_address: Any) -> None:
        self.finish_request(request, client_address)
        self.shutdown_request(request)


class SuperProcessForgets(TCPServer):
    async def process_request(self, request: Any, client_address: Any) -> None:
        super().process_request(request, client_address)


class VerifyForgets(TCPServer):
    async def verify_request(self, request: Any, client_address: Any) -> bool:
        return self.refused()  # type: ignore[return-value]

    async def refused(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("server_class", "message"),
    [
        (FinishForgets, "did not await it"),
        (PlainFinishForgets, "did not await it"),
        (ProcessForgets, "did not await the Answering"),
        (CoroutineProcessForgets, "did not await the Answering"),
        pytest.param(
            SuperProcessForgets,
            "write `await super().process_request(...)`",
            marks=pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
        ),
        pytest.param(
            VerifyForgets,
            "should have awaited",
            marks=pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
        ),
    ],
)
async def test_an_override_that_forgets_to_await_is_told(
    server_class: type[TCPServer],
    message: str,
    records: Callable[[], list[logging.LogRecord]],
) -> None:
    async with server_class(LOCALHOST, Answering) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        assert await counted(server) == (0, 1)
    (record,) = records()
    assert record.exc_info is not None
    assert message in str(record.exc_info[1])


async def test_a_handler_that_is_kept_may_be_awaited_later() -> None:
    class Server(TCPServer):
        async def process_request(self, request: Any, client_address: Any) -> None:
            self.later = asyncio.create_task(self.serve(self.finish_request(request, "kept")))

        async def serve(self, handler: Any) -> None:
            await handler
            self.shutdown_request(handler.request)

    async with Server(LOCALHOST, Answering) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"answer"
        assert await counted(server) == (0, 0)

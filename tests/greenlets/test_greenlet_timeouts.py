"""A time-out in a greenlet is the handler's own, unless it is the server's that has struck."""

import os
import socketserver
from collections.abc import Callable
from typing import Any

import pytest

from tests.greenlet_support import greenlet_server
from tests.support import client_of, until

OWN = 0.2


def fills_the_kernel(request: Any) -> None:
    while True:
        os.write(request.fileno(), bytes(100_000))


def has_a_timeout_of_its_own(request: Any) -> None:
    request.settimeout(OWN)
    request.recv(1)


def fails_elsewhere(request: Any) -> None:
    raise TimeoutError(110, "connecting to a database")


@pytest.mark.parametrize("fail", [fills_the_kernel, has_a_timeout_of_its_own, fails_elsewhere])
async def test_a_timeout_of_the_handlers_own_is_its_error(fail: Callable[[Any], None]) -> None:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            fail(self.request)

    errors: list[int] = []
    async with greenlet_server(Handler) as server:
        server.handle_error = lambda *_: errors.append(1)  # type: ignore[method-assign]
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"x")
            await until(lambda: errors)
        assert not server.statistics.timed_out
        await until(lambda: server.statistics.finished == 1)
        assert server.statistics.handlers_failed + server.statistics.clients_vanished == 1

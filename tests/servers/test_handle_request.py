"""One request at a time: handle_request()."""

import asyncio
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, TCPServer
from tests.support import ask, client_of

LOCALHOST = ("127.0.0.1", 0)


class Upper(BaseRequestHandler):
    async def handle(self) -> None:
        while data := await self.request.recv(1024):
            await self.request.sendall(data.upper())


async def test_handle_request_serves_one_request() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        for question in (b"one", b"two"):
            asking = asyncio.create_task(ask(server.server_address, question))
            await server.handle_request()
            assert await asking == question.upper()
            assert not server.requests()


async def test_handle_request_calls_handle_timeout() -> None:
    calls = []

    class Plain(TCPServer):
        timeout = 0.01

        def handle_timeout(self) -> None:
            calls.append("plain")

    class Coroutine(Plain):
        async def handle_timeout(self) -> None:  # type: ignore[override]
            await asyncio.sleep(0)
            calls.append("coroutine")

    for server_class in (Plain, Coroutine):
        async with server_class(LOCALHOST, Upper) as server:
            await server.handle_request()
    assert calls == ["plain", "coroutine"]


async def test_handle_request_heeds_the_shorter_of_two_time_outs() -> None:
    timed_out = []

    class Server(TCPServer):
        def handle_timeout(self) -> None:
            timed_out.append(self.socket.gettimeout())

    async with Server(LOCALHOST, Upper, timeout=1000) as server:
        server.socket.settimeout(0.01)
        await server.handle_request()
    assert timed_out == [0.01]


async def test_handle_request_takes_what_waits_even_with_a_time_out_of_zero() -> None:
    class Server(TCPServer):
        timed_out = 0

        def handle_timeout(self) -> None:
            self.timed_out += 1

    async with Server(LOCALHOST, Upper, timeout=0) as server:
        await server.handle_request()
        assert server.timed_out == 1
        async with client_of(server.server_address) as client:
            await client.send(b"waits")
            client.finish()
            await server.handle_request()
            assert await client.receive_all() == b"WAITS"
        assert server.timed_out == 1


async def test_handle_request_beside_other_serving_is_an_error() -> None:
    async with TCPServer(LOCALHOST, Upper) as server:
        waiting = asyncio.create_task(server.handle_request())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match=r"another handle_request\(\)"):
            await server.handle_request()
        with pytest.raises(RuntimeError, match=r"handle_request\(\) waits"):
            await server.start_serving()
        waiting.cancel()
        await asyncio.wait([waiting])
        await server.start_serving()
        with pytest.raises(RuntimeError, match="while the server is serving"):
            await server.handle_request()
        assert await ask(server.server_address, b"a") == b"A"


async def test_handle_request_passes_over_a_connection_that_is_gone() -> None:
    class Server(TCPServer):
        def get_request(self) -> Any:
            super().get_request()[0].close()
            raise ConnectionAbortedError

    async with Server(LOCALHOST, Upper) as server, client_of(server.server_address):
        await server.handle_request()


async def test_handle_request_waits_on_when_another_process_was_faster() -> None:
    class Server(TCPServer):
        slow = True

        def get_request(self) -> Any:
            if self.slow:
                self.slow = False
                raise BlockingIOError
            return super().get_request()

    async with Server(LOCALHOST, Upper) as server:
        asking = asyncio.create_task(ask(server.server_address, b"a"))
        await server.handle_request()
        assert await asking == b"A"


async def test_a_cancelled_handle_request_cancels_its_handler() -> None:
    entered = asyncio.Event()

    class Endless(BaseRequestHandler):
        async def handle(self) -> None:
            entered.set()
            await asyncio.Event().wait()

    async with TCPServer(LOCALHOST, Endless) as server, client_of(server.server_address) as client:
        handling = asyncio.create_task(server.handle_request())
        await entered.wait()
        handling.cancel()
        assert await client.receive_all() == b""
        await asyncio.wait([handling])
        assert handling.cancelled()


async def test_a_time_out_in_get_request_is_a_lost_connection() -> None:
    """As of a TLS handshake that somebody does there, and not handle_request()'s own."""
    timed_out = False

    class Server(TCPServer):
        def get_request(self) -> Any:
            super().get_request()[0].close()
            raise TimeoutError("the handshake timed out")

        def handle_timeout(self) -> None:
            nonlocal timed_out
            timed_out = True

    async with Server(LOCALHOST, Upper, timeout=30) as server:
        asking = asyncio.create_task(ask(server.server_address))
        await server.handle_request()
        assert await asking == b""
    assert not timed_out

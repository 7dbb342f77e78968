"""SystemExit and KeyboardInterrupt end the server in order, then are raised."""

import asyncio
from typing import Any

import pytest

from aiosocketserver import BaseRequestHandler, TCPServer
from tests.support import ask, client_of

LOCALHOST = ("127.0.0.1", 0)


class Leaving(Exception):
    pass


@pytest.mark.parametrize("exit_", [SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("hook", ["handle", "verify_request", "get_request", "handle_error"])
async def test_an_exit_is_raised_by_serve_forever_after_the_others_have_ended(
    exit_: BaseException, hook: str
) -> None:
    leave = False

    class Handler(BaseRequestHandler):
        async def handle(self) -> None:
            if leave:
                if hook == "handle_error":
                    raise Leaving
                raise exit_
            await self.request.sendall(b"?")
            await self.request.sendall((await self.request.recv(100)).upper())

    class Server(TCPServer):
        def get_request(self) -> Any:
            request = super().get_request()
            if leave and hook == "get_request":
                request[0].close()
                raise exit_
            return request

        def verify_request(self, request: Any, client_address: Any) -> bool:
            if leave and hook == "verify_request":
                raise exit_
            return True

        async def handle_error(self, request: Any, client_address: Any) -> None:
            raise exit_

    async with Server(LOCALHOST, Handler) as server, client_of(server.server_address) as other:
        serving = asyncio.create_task(_raised_by(server))
        assert await other.receive(1) == b"?"
        leave = True
        assert await ask(server.server_address) == b""
        assert not serving.done()
        await other.send(b"other")
        other.finish()
        assert await other.receive_all() == b"OTHER"
        assert await serving is exit_
        assert server.statistics.handlers_failed == (hook == "handle_error")


async def _raised_by(server: TCPServer) -> BaseException | None:
    # A task of its own would raise it out of the loop at once.
    try:
        await server.serve_forever()
    except BaseException as error:  # noqa: BLE001 - it is the result
        return error
    return None


class Exiting(BaseRequestHandler):
    async def handle(self) -> None:
        raise SystemExit(5)


async def test_an_exit_before_serve_forever_is_raised_by_it() -> None:
    async with TCPServer(LOCALHOST, Exiting) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""
        with pytest.raises(SystemExit, match="5"):
            await server.serve_forever()


async def test_an_exit_without_serve_forever_is_raised_by_shutdown() -> None:
    server = TCPServer(LOCALHOST, Exiting)
    await server.start_serving()
    assert await ask(server.server_address) == b""
    with pytest.raises(SystemExit, match="5"):
        await server.shutdown()
    server.server_close()


async def test_the_first_of_several_exits_is_raised() -> None:
    class Leaving(BaseRequestHandler):
        async def handle(self) -> None:
            await self.request.sendall(b"?")
            raise SystemExit((await self.request.recv(10)).decode())

    async with (
        TCPServer(LOCALHOST, Leaving) as server,
        client_of(server.server_address) as one,
        client_of(server.server_address) as two,
    ):
        serving = asyncio.create_task(_raised_by(server))
        for client in (one, two):
            assert await client.receive(1) == b"?"
        for client, word in ((one, b"first"), (two, b"second")):
            assert not serving.done()
            await client.send(word)
            client.finish()
            assert await client.receive_all() == b""
        error = await serving
        assert isinstance(error, SystemExit)
        assert error.code == "first"


async def test_an_exit_in_handle_request_is_raised_by_it() -> None:
    async with TCPServer(LOCALHOST, Exiting) as server:
        asking = asyncio.create_task(ask(server.server_address))
        with pytest.raises(SystemExit, match="5"):
            await server.handle_request()
        assert await asking == b""


async def test_an_exit_while_a_failed_request_is_shut_down_is_raised_too() -> None:
    class Failing(BaseRequestHandler):
        async def handle(self) -> None:
            raise Leaving

    class Server(TCPServer):
        def shutdown_request(self, request: Any) -> None:
            super().shutdown_request(request)
            raise SystemExit(5)

        def handle_error(self, request: Any, client_address: Any) -> None:
            assert self.statistics.handlers_failed == 1

    async with Server(LOCALHOST, Failing) as server:
        serving = asyncio.create_task(_raised_by(server))
        assert await ask(server.server_address) == b""
        assert isinstance(await serving, SystemExit)

"""The fixture `serving`, as a project's own tests use it."""

import socketserver
from collections.abc import Callable
from typing import Any

from aiosocketserver import StreamRequestHandler
from tests.deploy_support import ask


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


def test_several_servers_serve_until_the_test_ends(serving: Callable[..., Any]) -> None:
    _, first = serving(Echo)
    _, second = serving(Upper, max_threads=2, shutdown_timeout=0.1)
    assert ask(first, b"a\n") == b"a\n"
    assert ask(second, b"a\n") == b"A\n"

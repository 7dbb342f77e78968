"""What the tests of GreenletMixIn share."""

import socketserver
from collections.abc import Callable
from typing import Any

import aiosocketserver


def greenlet_server(
    handler: Callable[..., Any], **options: Any
) -> aiosocketserver.GreenletTCPServer:
    return aiosocketserver.GreenletTCPServer(("127.0.0.1", 0), handler, **options)


def handling(handle: Callable[[Any], object]) -> type[socketserver.BaseRequestHandler]:
    """A handler made for socketserver that calls `handle` with itself."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handle(self)

    return Handler

"""What the tests of ThreadingMixIn share: handlers made for socketserver."""

import socketserver
from collections.abc import Callable
from typing import Any

import aiosocketserver


class Tell(socketserver.StreamRequestHandler):
    """Answers with what `tell` returns."""

    def tell(self) -> object:
        raise NotImplementedError

    def handle(self) -> None:
        self.wfile.write(str(self.tell()).encode())


def telling(tell: Callable[[], object]) -> type[Tell]:
    class Handler(Tell):
        def tell(self) -> object:
            return tell()

    return Handler


class Held(socketserver.StreamRequestHandler):
    """Answers with a line, and ends when its client sends one."""

    def handle(self) -> None:
        self.wfile.write(b"begun\n")
        self.rfile.readline()


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.read())


def threading_server(
    handler: Callable[..., Any], **options: Any
) -> aiosocketserver.ThreadingTCPServer:
    return aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), handler, **options)

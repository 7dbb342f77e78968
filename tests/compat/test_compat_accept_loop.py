"""The accept loop under a legacy server: what strikes it between requests ends the serving."""

import asyncio
import logging
import sys
from types import FrameType
from typing import Any

import pytest

from aiosocketserver import compat
from aiosocketserver.compat import serving
from aiosocketserver.servers import accept_loop
from tests.compat_support import LOOP_NAMES, ask, connect, implementation, in_thread

ADDRESS = ("127.0.0.1", 0)
OURS = {accept_loop.__file__, serving.__file__}


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


class Alarm(OSError):
    """What a program's signal handler raises. As TimeoutError, an OSError."""


class Strike:
    """Raises an Alarm at the n-th line of ours that runs between two requests."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.is_armed = False
        self.where = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in OURS or is_in_a_hook(frame):
            return None
        if event == "line" and self.is_armed:
            if self.line == 0:
                self.is_armed = False
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                raise Alarm(self.where)
            self.line -= 1
        return self


def is_in_a_hook(frame: FrameType | None) -> bool:
    """Whether socketserver has been called, which has its own idea of an OSError."""
    while frame is not None:
        if frame.f_code.co_name == "_handle_request_noblock":
            return True
        frame = frame.f_back
    return False


def strike_at(line: int) -> str:
    """Serve two clients, and raise an Alarm at that line behind the first: where that was."""
    strike = Strike(line)

    class Handler(compat.BaseRequestHandler):
        def handle(self) -> None:
            if strike.is_armed:
                server._BaseServer__shutdown_request = True
            strike.is_armed = True

    with compat.TCPServer(ADDRESS, Handler) as server:
        address = server.server_address
        with connect(address), connect(address):
            raised = ""
            before = sys.gettrace()
            sys.settrace(strike)
            try:
                server.serve_forever()
            except Alarm as error:
                raised = str(error)
            finally:
                sys.settrace(before)
    assert raised == strike.where
    return strike.where


def test_what_a_signal_handler_raises_between_two_requests_ends_serve_forever() -> None:
    struck: list[str] = []
    while where := strike_at(len(struck)):
        struck.append(where)
    assert {where.split(",")[0] for where in struck} >= {"AcceptLoop.take_batch", "Serving._call"}


def test_an_attribute_of_the_program_s_that_fails_ends_serve_forever() -> None:
    class Server(compat.ThreadingTCPServer):
        served = False

        @property
        def max_threads(self) -> int | None:  # type: ignore[override]
            if self.served:
                raise Alarm("of the program's own")
            return None

        def service_actions(self) -> None:
            self.served = True

    class Handler(compat.BaseRequestHandler):
        pass

    with Server(ADDRESS, Handler) as server, connect(server.server_address) as client:
        with connect(server.server_address), pytest.raises(Alarm):
            server.serve_forever()
        assert client.recv(1) == b""


def test_a_server_that_is_closed_as_it_starts_ends() -> None:
    class Server(compat.TCPServer):
        def fileno(self) -> int:
            number = super().fileno()
            # As a signal handler may, at that moment.
            self.server_close()
            return number

    class Handler(compat.BaseRequestHandler):
        pass

    with Server(ADDRESS, Handler) as server:
        server.serve_forever()


@pytest.mark.parametrize("mixed", [compat.TCPServer, compat.ThreadingTCPServer])
def test_an_error_that_a_finaliser_tells_leaves_no_running_loop(
    mixed: type[compat.TCPServer], caplog: pytest.LogCaptureFixture
) -> None:
    # Here it is wanted.
    caplog.set_level(logging.CRITICAL, "asyncio")

    class Handler(compat.BaseRequestHandler):
        def handle(self) -> None:
            (serving,) = server._aiosocketserver.servings
            # As that of a task which is forgotten does.
            serving.loop.call_exception_handler({"message": "of a finaliser"})
            asyncio.run(asyncio.sleep(0))
            self.request.sendall(b"answer")

    with mixed(ADDRESS, Handler) as server, in_thread(server.serve_forever):
        assert ask(server.server_address) == b"answer"
        server.shutdown()

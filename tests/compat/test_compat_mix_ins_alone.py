"""A mix-in of compat over no server: it brings what socketserver's does, and works as that one."""

import os
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from aiosocketserver import compat
from aiosocketserver.compat.engine import Engine
from tests.compat_support import BOUND, ask, serving

ROOT = Path(__file__).resolve().parents[2]
MODULES = [socketserver, compat]
MIX_INS = ["ThreadingMixIn", "ForkingMixIn"]

# What docs/migration.md has of them in its table of differences.
THREADING_OPTIONS = {"max_threads", "reuse_threads", "greenlets", "blocking_warning"}
ADDED = {
    "ThreadingMixIn": THREADING_OPTIONS | {"run_on_loop", "run_blocking"},
    "ForkingMixIn": set[str](),
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", MIX_INS)
def test_a_mix_in_brings_socketserver_s_names_and_the_documented_ones(name: str) -> None:
    ours, theirs = getattr(compat, name), getattr(socketserver, name)
    assert public(ours) - public(theirs) == ADDED[name]
    assert public(theirs) <= public(ours)


@pytest.mark.parametrize("name", socketserver.__all__)
def test_private_names_of_compat_are_no_program_s(name: str) -> None:
    """Each begins as none of a program does, but for what handlers of the core ask for."""
    ours, theirs = getattr(compat, name), getattr(socketserver, name)
    private = {each for each in dir(ours) if each.startswith("_") and not each.endswith("__")}
    private -= set(dir(theirs)) | {"_checks_awaiting", "_made_to_await"}
    # socketserver's own, which are properties here.
    private -= {"_BaseServer__shutdown_request", "_BaseServer__is_shut_down"}
    assert {each for each in private if not each.startswith(("_aiosocketserver", "_Engine__"))} == (
        set()
    )


@pytest.mark.parametrize("mix_in", MIX_INS)
@pytest.mark.parametrize("name", sorted(public(compat.TCPServer)))
def test_a_stub_lacks_what_a_server_would_have(mix_in: str, name: str) -> None:
    stub = type("Stub", (getattr(compat, mix_in),), {})()
    expected = hasattr(getattr(socketserver, mix_in), name) or name in ADDED[mix_in]
    assert hasattr(stub, name) == expected


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("mix_in", MIX_INS)
def test_what_a_stub_lacks_is_an_attribute_error(module: Any, mix_in: str) -> None:
    stub = type("Stub", (getattr(module, mix_in),), {})()
    with pytest.raises(AttributeError, match="'Stub' object has no attribute 'shutdown'"):
        stub.shutdown(socket.SHUT_WR)
    with pytest.raises(AttributeError, match="'super' object has no attribute 'server_close'"):
        stub.server_close()


class Recorded:
    """What a program has in the place of a server: no class of socketserver."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.may_end = threading.Event()

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.calls.append(("finish_request", request, client_address))
        self.threads.add(threading.get_ident())
        assert self.may_end.wait(BOUND)
        if request == "fails":
            raise ValueError(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.calls.append(("handle_error", repr(sys.exception())))

    def shutdown_request(self, request: Any) -> None:
        self.calls.append(("shutdown_request", request))

    def server_close(self) -> None:
        self.calls.append(("server_close",))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("daemon", [True, False])
def test_a_fake_with_the_mix_in_has_threads(module: Any, daemon: bool) -> None:
    fake: Any = type("Fake", (module.ThreadingMixIn, Recorded), {"daemon_threads": daemon})()
    fake.process_request("fails", "address")
    names = [thread.name for thread in threading.enumerate()]
    assert any("(process_request_thread)" in name for name in names)
    fake.may_end.set()
    while "shutdown_request" not in [call[0] for call in fake.calls]:
        # Of a daemon nothing else tells that it has ended.
        threading.Event().wait(0.001)
    fake.server_close()
    assert threading.get_ident() not in fake.threads
    assert fake.calls == [
        ("finish_request", "fails", "address"),
        ("handle_error", "ValueError('fails')"),
        ("shutdown_request", "fails"),
        ("server_close",),
    ]


@pytest.mark.parametrize("module", MODULES)
def test_server_close_of_a_fake_waits_for_its_threads(module: Any) -> None:
    fake: Any = type("Fake", (module.ThreadingMixIn, Recorded), {})()
    fake.process_request("one", "address")
    threading.Timer(0.05, fake.may_end.set).start()
    fake.server_close()
    assert sorted(call[0] for call in fake.calls) == [
        "finish_request",
        "server_close",
        "shutdown_request",
    ]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("spec", [None, "ThreadingTCPServer"])
def test_a_mock_in_the_place_of_the_server(module: Any, spec: str | None) -> None:
    """Python's mocks pass isinstance() for what they stand for."""
    called = threading.Event()
    server = mock.Mock(spec=None if spec is None else getattr(module, spec))
    server.block_on_close, server.daemon_threads = True, False
    server.process_request_thread.side_effect = lambda *arguments: called.set()
    module.ThreadingMixIn.process_request(server, "request", "address")
    assert called.wait(BOUND)
    server._threads.join()
    server.process_request_thread.assert_called_once_with("request", "address")


CHILDREN = """
import os
{imports}

def tell(what):
    os.write(1, b"%r\\n" % (what,))

class Fake(socketserver.ForkingMixIn):
    def finish_request(self, request, client_address):
        tell((request, client_address))
        if request == b"fails":
            raise ValueError
    def handle_error(self, request, client_address):
        tell("handle_error")
    def shutdown_request(self, request):
        tell("shutdown_request")
    def close_request(self, request):
        pass

fake = Fake()
fake.service_actions()
fake.handle_timeout()
tell(fake.active_children)
for request in (b"one", b"fails"):
    fake.process_request(request, b"address")
    tell(len(fake.active_children))
    fake.collect_children(blocking=True)
    tell(fake.active_children)
try:
    fake.server_close()
except AttributeError as error:
    tell(str(error))
"""


def test_a_fake_with_the_mix_in_has_children() -> None:
    told = []
    for imports in ("import socketserver", "from aiosocketserver import compat as socketserver"):
        done = subprocess.run(
            [sys.executable, "-c", CHILDREN.format(imports=imports)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        told.append(sorted(done.stdout.splitlines()))
    assert told[0] == told[1]
    assert told[0].count("'shutdown_request'") == 2


@pytest.mark.parametrize("module", MODULES)
def test_a_server_whose_constructor_has_not_run(module: Any) -> None:
    fake = module.TCPServer.__new__(module.TCPServer)
    assert not hasattr(fake, "_BaseServer__is_shut_down")
    assert not hasattr(fake, "_BaseServer__shutdown_request")
    with pytest.raises(AttributeError, match="no attribute '_BaseServer__is_shut_down'"):
        fake.shutdown()


def test_a_server_has_names_of_its_own() -> None:
    """Words that come to a programmer's mind, and came to ours."""

    class Server(compat.ThreadingTCPServer):
        _serve = _serve_one = _serve_coroutine = _serve_in_greenlet = _check_handler = None
        _has_room = _tell_stopped = _request_ended = _state = _stopped = None

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with serving(Server(("127.0.0.1", 0), Handler)) as server:
        assert isinstance(server, Engine)
        assert ask(server.server_address, b"one\n") == b"one\n"

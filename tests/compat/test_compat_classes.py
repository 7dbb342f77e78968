"""compat's classes: what is set on one is found where it would be among socketserver's own."""

import http.server
import itertools
import socketserver
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from aiosocketserver import compat
from aiosocketserver.compat.engine import Engine
from tests.compat_support import BOUND, LOOP_NAMES, ask, implementation, serving

ADDRESS = ("127.0.0.1", 0)

SERVERS_AND_MIX_INS = [name for name in socketserver.__all__ if not name.endswith("Handler")]


@pytest.fixture(params=LOOP_NAMES)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    implementation(request.param, monkeypatch)
    return str(request.param)


def test_every_name_is_here_and_handlers_are_socketserver_s_own() -> None:
    assert vars(compat)["__all__"] == socketserver.__all__
    for name in socketserver.__all__:
        ours, theirs = getattr(compat, name), getattr(socketserver, name)
        if name.endswith("Handler"):
            assert ours is theirs
        else:
            assert ours is not theirs
            assert issubclass(ours, theirs)
            assert issubclass(ours, Engine) == issubclass(ours, socketserver.BaseServer)
            assert ours.__name__ == name


def test_what_is_a_subclass_of_what() -> None:
    for one, other in itertools.product(SERVERS_AND_MIX_INS, repeat=2):
        expected = issubclass(getattr(socketserver, one), getattr(socketserver, other))
        assert issubclass(getattr(compat, one), getattr(compat, other)) == expected, (one, other)


def names_of(cls: type) -> set[str]:
    kept = {"__doc__", "__module__", "__dict__", "__weakref__", "__qualname__"}
    kept |= {"__firstlineno__", "__static_attributes__", "__annotations__"}
    return {name for base in cls.__mro__[:-1] for name in vars(base)} - kept


def seen_by(module: Any, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> set[str]:
    """The classes of the module that see what is set as `name` on the class `where`."""
    mark = object()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, mark, raising=False)
        return {
            each
            for each in SERVERS_AND_MIX_INS
            if getattr(getattr(module, each), name, None) is mark
        }


@pytest.mark.parametrize("where", SERVERS_AND_MIX_INS)
def test_what_is_set_on_one_class_is_seen_by_the_same_others(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = getattr(socketserver, where)
    # What the engine itself defines has to come first.
    names = names_of(theirs) - set(vars(Engine)) | {"new_attribute"}
    assert "server_bind" in names or "Server" not in where or where == "BaseServer"
    for name in names:
        expected = seen_by(socketserver, monkeypatch, theirs, name)
        assert seen_by(compat, monkeypatch, getattr(compat, where), name) == expected, name


@pytest.mark.parametrize("where", SERVERS_AND_MIX_INS)
@pytest.mark.parametrize(
    "name", ["allow_reuse_address", "daemon_threads", "get_request", "handle_error", "timeout"]
)
def test_what_is_set_on_socketserver_s_class_is_seen_here_too(
    where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = getattr(socketserver, where)
    expected = seen_by(socketserver, monkeypatch, theirs, name)
    assert seen_by(compat, monkeypatch, theirs, name) == expected


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


class ThreadingHTTP(compat.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


class ForkingOverStandard(compat.ForkingMixIn, socketserver.TCPServer):
    pass


class StandardThreadingOverCompat(socketserver.ThreadingMixIn, compat.TCPServer):
    pass


class OwnBetween(compat.ThreadingMixIn, socketserver.TCPServer):
    """As programs are written that call the base by its name."""

    def __init__(self, address: Any, handler: Any) -> None:
        self.before = True
        socketserver.TCPServer.__init__(self, address, handler, False)
        self.server_bind()
        self.server_activate()
        self.after = True


@pytest.mark.parametrize(
    "server_class", [ForkingOverStandard, StandardThreadingOverCompat, OwnBetween]
)
def test_mixed_class_is_served_by_the_engine(server_class: Any, loop: str) -> None:
    with serving(server_class(ADDRESS, Echo)) as server:
        assert ask(server.server_address, b"one\n") == b"one\n"
        [only] = server._aiosocketserver.servings
        assert only.server is server


def test_http_server_with_our_mix_in(loop: str) -> None:
    with serving(ThreadingHTTP(ADDRESS, http.server.SimpleHTTPRequestHandler)) as served:
        server: Any = served
        # How mercurial and django tell whether they are threaded.
        assert issubclass(type(server), socketserver.ThreadingMixIn)
        url = "http://{}:{}/".format(*server.server_address)
        with urllib.request.urlopen(url, timeout=BOUND) as answer:
            assert answer.read()
        assert server._aiosocketserver.servings


def test_a_subclass_with_its_own_mix_ins_before_and_after(loop: str) -> None:
    calls: list[str] = []

    class Before:
        def process_request(self, request: Any, client_address: Any) -> None:
            calls.append("before")
            super().process_request(request, client_address)  # type: ignore[misc]

    class Server(Before, compat.ThreadingMixIn, compat.TCPServer):
        pass

    with serving(Server(ADDRESS, Echo)) as server:
        assert ask(server.server_address, b"one\n") == b"one\n"
    assert calls == ["before"]


INSTALL = """
import sys, warnings
{before}
from aiosocketserver import compat
from aiosocketserver.compat.engine import Engine
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    left = compat.install({arguments})
{after}
"""


def installed(after: str, before: str = "", arguments: str = "") -> str:
    """What a fresh interpreter prints."""
    program = INSTALL.format(before=before, arguments=arguments, after=after)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_install_and_uninstall() -> None:
    after = (
        "import socketserver, SocketServer, http.server\n"
        "print(left, told, socketserver is SocketServer is compat)\n"
        "print(issubclass(http.server.HTTPServer, Engine), compat.install())\n"
        "namespace = {}\n"
        "exec('from socketserver import *', namespace)\n"
        "print('install' in namespace, 'ThreadingTCPServer' in namespace)\n"
        "print(socketserver._SocketWriter.__module__)\n"
        # A coverage measurement gives __main__ a second name.
        "users = [name for name in compat.uninstall() if name != '__mp_main__']\n"
        "print(users, 'SocketServer' in sys.modules)\n"
        "import socketserver\n"
        "print(socketserver.__name__)"
    )
    assert installed(after).splitlines() == [
        "[] [] True",
        "True []",
        "False True",
        "socketserver",
        "['__main__', 'http.server'] False",
        "socketserver",
    ]


def test_install_tells_who_has_imported_the_real_one() -> None:
    before = "import http.server, wsgiref.simple_server, logging.config\nimport socketserver as s"
    out = installed("print(left)\nprint([str(w.message) for w in told])", before)
    for name in ("__main__", "http.server", "wsgiref.simple_server", "logging.config"):
        assert out.count(f"'{name}'") == 1
        assert name in out.splitlines()[1]
    assert "reimport=True" in out


def test_install_imports_the_standard_library_s_again() -> None:
    before = "import wsgiref.simple_server, xmlrpc.server, logging.config, http.server as module"
    after = (
        "print(left, told, module is sys.modules['http.server'])\n"
        "import wsgiref.simple_server\n"
        "print(issubclass(module.HTTPServer, Engine),\n"
        "      issubclass(wsgiref.simple_server.WSGIServer, module.HTTPServer),\n"
        "      issubclass(xmlrpc.server.SimpleXMLRPCServer, Engine))\n"
        "compat.uninstall()\n"
        "print(issubclass(module.HTTPServer, Engine),\n"
        "      issubclass(wsgiref.simple_server.WSGIServer, module.HTTPServer))"
    )
    out = installed(after, before, "reimport=True").splitlines()
    assert out == ["[] [] True", "True True True", "False True"]

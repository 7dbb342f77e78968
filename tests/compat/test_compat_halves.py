"""Classes half from compat and half from the standard library, as programs make them."""

import abc
import copy
import dataclasses
import http.server
import pickle
import socketserver
import threading
import types
import xmlrpc.server
from typing import Any, Generic, TypeVar

import pytest

from aiosocketserver import compat
from aiosocketserver.compat.engine import Engine
from tests.compat_support import BOUND, LOOP_NAMES, ask, implementation, in_thread

ADDRESS = ("127.0.0.1", 0)

T = TypeVar("T")


class Place(socketserver.BaseRequestHandler):
    """Answers whether the handler runs in the thread that serves."""

    def handle(self) -> None:
        self.request.sendall(b"%d" % (threading.get_ident() == self.server.thread))  # type: ignore[attr-defined]


def answer_of(server_class: Any) -> bytes:
    server = server_class(ADDRESS, Place)
    begun = threading.Event()

    def serve() -> None:
        server.thread = threading.get_ident()
        begun.set()
        server.serve_forever(0.01)

    with in_thread(serve):
        assert begun.wait(BOUND)
        try:
            return ask(server.server_address)
        finally:
            server.shutdown()
            server.server_close()


@pytest.fixture(params=LOOP_NAMES, autouse=True)
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    implementation(request.param, monkeypatch)


@pytest.mark.parametrize(
    "server",
    [
        socketserver.TCPServer,
        socketserver.ThreadingTCPServer,
        http.server.HTTPServer,
        http.server.ThreadingHTTPServer,
        xmlrpc.server.SimpleXMLRPCServer,
    ],
)
@pytest.mark.parametrize("mix_in", [compat.ThreadingMixIn, compat.GreenletMixIn])
def test_the_engine_serves_a_server_of_the_standard_library(server: Any, mix_in: Any) -> None:
    seen: list[Any] = []

    class Server(mix_in, server):  # type: ignore[misc]
        def finish_request(self, request: Any, client_address: Any) -> None:
            [only] = self._aiosocketserver.servings
            seen.append(only.server)
            Place(request, client_address, self)

    assert issubclass(Server, compat.TCPServer)
    assert answer_of(Server) == (b"1" if mix_in is compat.GreenletMixIn else b"0")
    assert isinstance(seen[0], Server)


def test_what_a_server_s_subclass_overrides_comes_before_the_engine() -> None:
    calls: list[str] = []

    class Traced(socketserver.TCPServer):
        def serve_forever(self, poll_interval: float = 0.5) -> None:
            calls.append("serve_forever")
            super().serve_forever(poll_interval)

        def shutdown(self) -> None:
            calls.append("shutdown")
            super().shutdown()

        def process_request(self, request: Any, client_address: Any) -> None:
            calls.append("process_request")
            super().process_request(request, client_address)

        def server_close(self) -> None:
            calls.append("server_close")
            super().server_close()

    class Server(Traced, compat.ThreadingMixIn):
        pass

    assert issubclass(Server, Engine)
    assert answer_of(Server) == b"1"
    assert calls == ["serve_forever", "process_request", "shutdown", "server_close"]


def test_what_is_set_on_compat_s_server_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Server(compat.ThreadingMixIn, socketserver.UDPServer):
        pass

    monkeypatch.setattr(compat.UDPServer, "max_packet_size", 17)
    monkeypatch.setattr(compat.TCPServer, "request_queue_size", 18)
    monkeypatch.setattr(compat.TCPServer, "allow_reuse_address", True)
    assert (Server.max_packet_size, Server.request_queue_size) == (17, 18)
    assert not Server.allow_reuse_address


def test_classes_that_programs_keep_a_list_of() -> None:
    made: dict[str, type] = {}

    class Registered(socketserver.TCPServer):
        def __init_subclass__(cls, *, name: str, **options: Any) -> None:
            super().__init_subclass__(**options)
            made[name] = cls

    class Before(compat.ThreadingMixIn, Registered, name="before"):
        pass

    class After(Registered, compat.ThreadingMixIn, name="after"):
        pass

    assert made == {"before": Before, "after": After}
    assert (answer_of(Before), answer_of(After)) == (b"0", b"1")


class Meta(type):
    """A program's own."""

    bases: tuple[type, ...]

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> "Meta":
        made = super().__new__(cls, name, bases, namespace)
        made.bases = bases
        return made


class Slotted(socketserver.TCPServer):
    __slots__ = ("thread",)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("server", [socketserver.TCPServer, Slotted])
def test_ways_to_make_a_class(first: bool, server: Any) -> None:
    expected = b"0" if first else b"1"
    bases: Any = (compat.ThreadingMixIn, server) if first else (server, compat.ThreadingMixIn)

    class Abstract(*bases, abc.ABC):  # type: ignore[misc]
        @abc.abstractmethod
        def name(self) -> str: ...

    class Concrete(Abstract):
        def name(self) -> str:
            return "concrete"

    class Typed(*bases, Generic[T]):  # type: ignore[misc]
        pass

    class WithSlots(*bases):  # type: ignore[misc]
        __slots__ = ("number",)

    class WithMeta(*bases, metaclass=Meta):  # type: ignore[misc]
        pass

    @dataclasses.dataclass(init=False, slots=True)
    class Data(*bases):  # type: ignore[misc]
        number: int = 0

    assert Abstract.__abstractmethods__ == {"name"}
    with pytest.raises(TypeError, match="abstract"):
        Abstract(ADDRESS, Place)
    assert WithMeta.bases == bases
    made = types.new_class("Made", bases)
    for each in (Concrete, Typed[int], WithSlots, WithMeta, Data, made):
        assert issubclass(getattr(each, "__origin__", each), Engine)
        assert answer_of(getattr(each, "__origin__", each)) == expected, each


class Kept(compat.ThreadingMixIn, http.server.HTTPServer):
    """For pickle, by its name."""


def test_a_class_is_copied_and_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(Kept)) is Kept
    assert copy.deepcopy(Kept) is Kept


def test_a_class_whose_base_keeps_init_subclass_to_itself_is_socketserver_s() -> None:
    """Python tells such bases to call super(); without, nobody else hears of the new class."""

    class Alone:
        def __init_subclass__(cls) -> None:
            pass

    class Server(Alone, compat.ThreadingMixIn, socketserver.TCPServer):
        pass

    assert not issubclass(Server, Engine)
    assert answer_of(Server) == b"0"


def test_a_mix_in_put_into_a_class_that_exists() -> None:
    """As some programs do to libraries."""

    class Library(socketserver.TCPServer):
        pass

    class OnLoop(compat.TCPServer):
        pass

    Library.__bases__ = (compat.ThreadingMixIn, socketserver.TCPServer)
    OnLoop.__bases__ = (compat.ThreadingMixIn, compat.TCPServer)
    assert (answer_of(Library), answer_of(OnLoop)) == (b"0", b"0")

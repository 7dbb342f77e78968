"""A legacy handler finds itself as socketserver would have made it, whatever it does there."""

import functools
import json
import socketserver
import threading
from collections.abc import Callable
from typing import Any

import pytest

import aiosocketserver
from tests.compat_support import ask as ask_blocking
from tests.compat_support import serving
from tests.support import ask

LOCALHOST = ("127.0.0.1", 0)

# What the handlers below note, told to the client by `finish` or by whoever made them.
Notes = list[Any]


class Noting(socketserver.BaseRequestHandler):
    """Sends what the handler has noted."""

    notes: Notes

    def setup(self) -> None:
        self.notes = []

    def note(self, what: object = None) -> None:
        self.notes.append(what)

    def finish(self) -> None:
        self.request.sendall(json.dumps(self.notes).encode())


def twice(function: Callable[[], object]) -> Callable[[], None]:
    def wrapper() -> None:
        function()
        function()

    return wrapper


class FetchedInConstructor(Noting):
    def __init__(self, *args: Any) -> None:
        self.handle = twice(self.handle)  # type: ignore[method-assign]
        super().__init__(*args)

    def handle(self) -> None:
        self.note("handled")


class AllFetchedInConstructor(Noting):
    def __init__(self, *args: Any) -> None:
        for name in ("setup", "handle"):
            setattr(self, name, twice(getattr(self, name)))
        super().__init__(*args)

    def handle(self) -> None:
        self.note(sorted(vars(self)))


class WrappedInSetup(Noting):
    def setup(self) -> None:
        super().setup()
        self.handle = twice(self.handle)  # type: ignore[method-assign]

    def handle(self) -> None:
        self.note("handled")


class CallsItself(Noting):
    def handle(self) -> None:
        self.note(len(self.notes))
        if len(self.notes) < 3:
            self.handle()


class HandledInSetup(Noting):
    def setup(self) -> None:
        super().setup()
        self.handle()

    def handle(self) -> None:
        self.note("handled")


class LooksAtItself(Noting):
    def setup(self) -> None:
        seen = sorted(vars(self))
        super().setup()
        self.note(seen)

    def handle(self) -> None:
        self.note(sorted(vars(self)))
        self.note("handle" in self.__dict__)
        self.note(str(type(self).__mro__))

    def finish(self) -> None:
        self.note(sorted(vars(self)))
        super().finish()


class LooksAtItselfInConstructor(Noting):
    def __init__(self, *args: Any) -> None:
        self.before = sorted(vars(self))
        super().__init__(*args)

    def handle(self) -> None:
        self.note(self.before)
        self.note(sorted(vars(self)))


class SeesEachAccess(Noting):
    def __getattribute__(self, name: str) -> Any:
        if name not in ("notes", "note") and not name.startswith("__"):
            vars_ = super().__getattribute__("__dict__")
            vars_.setdefault("seen", []).append(name)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self).setdefault("seen", []).append(f"{name} =")
        super().__setattr__(name, value)

    def handle(self) -> None:
        pass

    def finish(self) -> None:
        self.notes.extend(vars(self)["seen"])
        super().finish()


class WithoutDictionary:
    __slots__ = ("client_address", "request", "server")

    request: Any

    __init__ = socketserver.BaseRequestHandler.__init__

    def setup(self) -> None:
        pass

    def handle(self) -> None:
        self.request.sendall(b"handled ")

    def finish(self) -> None:
        self.request.sendall(b"finished")


class HandlesOtherNames(Noting):
    """What it has not, `handle` among it, is made when it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda: self.note(name)

    def handle(self) -> None:
        self.nothing_like_it()


class Partial(Noting):
    def _handle(self, word: str) -> None:
        self.note([word, sorted(vars(self))])

    handle = functools.partialmethod(_handle, "partly")


def counted(function: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(function)
    def wrapper(self: Any) -> None:
        self.note("counted")
        function(self)

    return wrapper


class Decorated(Noting):
    @counted
    def handle(self) -> None:
        self.note(getattr(self.handle, "__name__", None))


class AProperty(Noting):
    @property
    def handle(self) -> Any:
        return lambda: self.note("from a property")


class Static(Noting):
    @staticmethod
    def handle() -> None:
        pass


class HandledElsewhere(socketserver.BaseRequestHandler):
    """Its constructor has its methods called by another thread."""

    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        self.request = request
        thread = threading.Thread(target=self.handle)
        thread.start()
        thread.join()
        self.request.sendall(repr(sorted(vars(self))).encode())

    def handle(self) -> None:
        self.request.sendall(repr(sorted(vars(self))).encode())


class OnNoBase:
    def __init__(self, request: Any, client_address: Any, server: Any) -> None:
        handle = self.handle
        handle(request)
        handle(request)

    def handle(self, request: Any) -> None:
        request.sendall(repr(sorted(vars(self))).encode())


class MadeByItsOwnNew(Noting):
    made = 0

    def __new__(cls, *args: Any) -> Any:
        instance = super().__new__(cls)
        instance.made = len(args)
        return instance

    def handle(self) -> None:
        self.note(self.made)


class MadeAsAnother(Noting):
    def __new__(cls, *args: Any) -> Any:
        return LooksAtItself(*args)

    def handle(self) -> None:
        raise AssertionError("nobody made one of these")


class Meta(type):
    def __call__(cls: Any, request: Any, client_address: Any, server: Any) -> Any:
        instance = cls.__new__(cls)
        instance.before = sorted(vars(instance))
        instance.__init__(request, client_address, server)
        return instance


class OfAMetaclass(Noting, metaclass=Meta):
    before: Notes

    def handle(self) -> None:
        self.note([self.before, sorted(vars(self))])


class WithKeywords(Noting):
    def __init__(self, *args: Any, word: str) -> None:
        self.word = word
        super().__init__(*args)

    def handle(self) -> None:
        self.note([self.word, sorted(vars(self))])


def a_factory(request: Any, client_address: Any, server: Any) -> Any:
    return LooksAtItself(request, client_address, server)


HANDLERS: list[Any] = [
    FetchedInConstructor,
    AllFetchedInConstructor,
    WrappedInSetup,
    CallsItself,
    HandledInSetup,
    LooksAtItself,
    LooksAtItselfInConstructor,
    SeesEachAccess,
    WithoutDictionary,
    HandlesOtherNames,
    Partial,
    Decorated,
    AProperty,
    Static,
    HandledElsewhere,
    OnNoBase,
    MadeByItsOwnNew,
    MadeAsAnother,
    OfAMetaclass,
    functools.partial(WithKeywords, word="more"),
    functools.partial(LooksAtItself),
    a_factory,
]


def name_of(handler: Any) -> str:
    return getattr(handler, "__name__", None) or f"partial of {handler.func.__name__}"


each_handler = pytest.mark.parametrize("handler", HANDLERS, ids=name_of)
each_server = pytest.mark.parametrize(
    "server_class",
    [
        aiosocketserver.ThreadingTCPServer,
        aiosocketserver.GreenletTCPServer,
        pytest.param(
            aiosocketserver.ForkingTCPServer,
            marks=pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
        ),
    ],
    ids=["threads", "greenlets", "children"],
)


def told_by_socketserver(handler: Any) -> bytes:
    with serving(socketserver.ThreadingTCPServer(LOCALHOST, handler), 0.01) as server:
        answer = ask_blocking(server.server_address)
    assert answer
    return answer


@each_server
@each_handler
async def test_a_handler_sees_of_itself_what_it_sees_under_socketserver(
    server_class: Any, handler: Any
) -> None:
    expected = told_by_socketserver(handler)
    async with server_class(LOCALHOST, handler) as server:
        await server.start_serving()
        assert await ask(server.server_address) == expected
        assert await ask(server.server_address) == expected
        await server.shutdown()
        assert server.statistics.handlers_failed == 0

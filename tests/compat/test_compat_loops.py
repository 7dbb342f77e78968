"""The loop that a compat server runs on: `loop_factory`, the environment, and what goes wrong."""

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from aiosocketserver import compat
from tests.compat_support import serving

ADDRESS = ("127.0.0.1", 0)


def own_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    loop.own = True  # type: ignore[attr-defined]
    return loop


class OwnLoop(asyncio.SelectorEventLoop):
    pass


def loop_of(**attributes: Any) -> Any:
    """The loop that a server with these class attributes serves on; it is closed."""
    seen: list[asyncio.AbstractEventLoop] = []

    class Server(compat.TCPServer):
        def service_actions(self) -> None:
            seen.extend(each.loop for each in self._aiosocketserver.servings)
            self._BaseServer__shutdown_request = True

    for name, value in attributes.items():
        setattr(Server, name, value)
    with Server(ADDRESS, compat.BaseRequestHandler) as server:
        server.serve_forever(0)
    assert seen[0].is_closed()
    return seen[0]


def package(loop: asyncio.AbstractEventLoop) -> str:
    return type(loop).__module__.split(".")[0]


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIOSOCKETSERVER_LOOP", raising=False)


def test_the_default_is_asyncio_s() -> None:
    assert package(loop_of()) == "asyncio"


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_a_name_as_class_attribute(name: str) -> None:
    assert package(loop_of(loop_factory=name)) == name


@pytest.mark.parametrize(("value", "name"), [("", "asyncio"), ("uvloop", "uvloop")])
def test_a_name_in_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, name: str) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", value)
    assert package(loop_of()) == name


def test_the_class_attribute_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", "uvloop")
    assert package(loop_of(loop_factory="asyncio")) == "asyncio"


@pytest.mark.parametrize("factory", [own_loop, staticmethod(own_loop), lambda: own_loop()])
def test_a_function_as_class_attribute_is_no_method(factory: Callable[..., Any]) -> None:
    assert loop_of(loop_factory=factory).own


def test_a_loop_class_as_class_attribute() -> None:
    assert isinstance(loop_of(loop_factory=OwnLoop), OwnLoop)


# Python 3.14 warns of policies, 3.16 has none.
@pytest.mark.skipif(sys.version_info >= (3, 16), reason="there are no event loop policies")
@pytest.mark.filterwarnings("ignore:.*[pP]olicy.* is deprecated:DeprecationWarning")
def test_the_event_loop_policy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return OwnLoop()

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(Policy())
    try:
        assert isinstance(loop_of(), OwnLoop)
    finally:
        asyncio.set_event_loop_policy(before)


def test_an_unknown_name_is_told_with_where_it_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"^.*Server\.loop_factory must be 'asyncio' or 'uvloop', and is 'trio'$"
    ):
        loop_of(loop_factory="trio")
    with pytest.raises(ValueError, match=r"Server\.loop_factory .* and is 5$"):
        loop_of(loop_factory=5)
    monkeypatch.setenv("AIOSOCKETSERVER_LOOP", "trio")
    with pytest.raises(ValueError, match=r"^the variable AIOSOCKETSERVER_LOOP .* and is 'trio'$"):
        loop_of()


def test_a_uvloop_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(
        ImportError, match=r"loop_factory asks for uvloop, .*pip install aiosocketserver\[uvloop\]"
    ):
        loop_of(loop_factory="uvloop")


def test_a_server_serves_after_its_loop_could_not_be_made() -> None:
    class Server(compat.TCPServer):
        loop_factory = "trio"

    with Server(ADDRESS, compat.BaseRequestHandler) as server:
        with pytest.raises(ValueError, match="trio"):
            server.serve_forever()
        # Nobody waits for it.
        server.shutdown()
        server.loop_factory = "asyncio"
        server.serve_forever()
        with serving(server):
            pass


def test_the_thread_s_event_loop_is_as_before() -> None:
    loop = asyncio.new_event_loop()

    async def main() -> None:
        with compat.TCPServer(ADDRESS, compat.BaseRequestHandler) as server:
            server.shutdown()
            server.serve_forever()
        assert asyncio.get_running_loop() is loop
        assert asyncio.get_event_loop() is loop

    loop.run_until_complete(main())
    loop.close()


def test_a_program_that_logs_everything_hears_nothing_of_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    loop_of(loop_factory="asyncio")
    assert not caplog.records
    asyncio.SelectorEventLoop().close()
    assert [record.name for record in caplog.records] == ["asyncio"]

"""Options: class attributes that the constructor takes as keywords too."""

import gc
import re
import socket
import weakref
from typing import Any, get_type_hints

import pytest

import aiosocketserver
from aiosocketserver import (
    BaseRequestHandler,
    BaseServer,
    ForkingTCPServer,
    ServerOptions,
    TCPServer,
    ThreadingTCPServer,
    ThreadingUDPServer,
    UDPServer,
    UnixStreamServer,
    compat,
)
from aiosocketserver.compat.engine import COROUTINE_OPTIONS
from aiosocketserver.deploy.settings import options_and_defaults
from aiosocketserver.options import table
from aiosocketserver.options.of_classes import Known, options_of

LOCALHOST = ("127.0.0.1", 0)
OPTIONS = sorted(ServerOptions.__annotations__)
SERVERS = [
    value
    for name in aiosocketserver.__all__
    if isinstance(value := getattr(aiosocketserver, name), type)
    and issubclass(value, BaseServer)
    and value is not BaseServer
]


class Nothing(BaseRequestHandler):
    async def handle(self) -> None:
        pass


def all_options() -> dict[str, Known]:
    """Every option that a server class has: the same one in all classes."""
    found: dict[str, Known] = {}
    for cls in SERVERS:
        for name, known in options_of(cls).items():
            assert found.setdefault(name, known) == known
    return found


def test_keywords_for_type_checkers_are_those_of_the_classes() -> None:
    hints = get_type_hints(ServerOptions)
    assert hints == {name: known.hint for name, known in all_options().items()}


def test_compat_has_the_defaults_of_the_core() -> None:
    defaults = options_and_defaults()
    for name in COROUTINE_OPTIONS:
        assert getattr(compat.TCPServer, name) == defaults[name][1]


def test_the_table_has_what_the_classes_have() -> None:
    in_table = {name for name, value in vars(table).items() if isinstance(value, table.Option)}
    assert in_table == set(OPTIONS)
    for name, known in all_options().items():
        assert known.option is getattr(table, name)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_an_option_is_comes_before_the_first_semicolon(name: str) -> None:
    """That much is the help of its flag."""
    what, _, _ = getattr(table, name).help.partition(";")
    assert 10 < len(what) < 150
    assert not re.search(r"[\[\].]", what)


@pytest.mark.parametrize("server_class", SERVERS)
def test_each_default_makes_sense(server_class: type[TCPServer | UDPServer]) -> None:
    for known in options_of(server_class).values():
        assert known.wrong(getattr(server_class, known.name)) is None


def test_a_class_of_a_program_has_the_options_of_ours_alone() -> None:
    class Own(TCPServer):
        max_clients: int = 3
        idle_timeout = 5

    # As it stands there in a module with `from __future__ import annotations`.
    Own.__annotations__["max_clients"] = "Annotated[int, option.idle_timeout]"

    assert options_of(Own) == options_of(TCPServer)


def test_attributes_of_a_program_are_read_from_the_server() -> None:
    """Descriptors and properties may need an instance, and what its constructor sets."""

    class Configured:
        def __get__(self, server: Any, cls: type) -> float:
            return float(server.configuration["idle"])

    class Own(TCPServer):
        idle_timeout: Any = Configured()

        def __init__(self) -> None:
            self.configuration = {"idle": 3}
            super().__init__(LOCALHOST, Nothing)
            self.limit = 5

        @property
        def request_timeout(self) -> float:  # type: ignore[override]
            return self.limit

    server = Own()
    assert (server.idle_timeout, server.request_timeout) == (3, 5)
    server.server_close()


def test_a_server_of_some_other_kind_has_lines_if_it_has_a_limit_for_them() -> None:
    class WithLines(BaseServer):
        max_line_size = 100

    assert "max_line_size" in options_of(WithLines)
    assert not {"max_line_size", "max_block_size"} & options_of(BaseServer).keys()


def test_no_class_of_a_program_is_kept() -> None:
    class Own(TCPServer):
        @property
        def idle_timeout(self) -> float | None:  # type: ignore[override]
            return super().idle_timeout

    server = Own(LOCALHOST, Nothing)
    server.server_close()
    reference = weakref.ref(Own)
    del server, Own
    gc.collect()
    assert reference() is None


def test_a_keyword_and_a_class_attribute_do_the_same() -> None:
    class Small(TCPServer):
        request_queue_size = 3
        timeout = 4

    by_class = Small(LOCALHOST, Nothing)
    by_keyword = TCPServer(LOCALHOST, Nothing, request_queue_size=3, timeout=4)
    for server in (by_class, by_keyword):
        assert (server.request_queue_size, server.timeout) == (3, 4)
        server.server_close()
    assert TCPServer.request_queue_size == 1024


def test_a_keyword_wins_over_the_class() -> None:
    class Small(TCPServer):
        max_line_size = 10

    server = Small(LOCALHOST, Nothing, max_line_size=20)
    assert server.max_line_size == 20
    server.server_close()


@pytest.mark.parametrize(
    ("server_class", "name", "hint"),
    [
        (TCPServer, "max_line_sise", "did you mean 'max_line_size'?"),
        (TCPServer, "allow_reuse_adress", "did you mean 'allow_reuse_address'?"),
        (TCPServer, "xyzzy", "it has address_family, allow_reuse_address, allow_reuse_port, "),
        (TCPServer, "daemon_threads", "TCPServer has no option 'daemon_threads'"),
        (TCPServer, "max_queue", "TCPServer has no option"),
        (TCPServer, "shutdown", "TCPServer has no option"),
        (UDPServer, "max_line_size", "UDPServer has no option"),
        (UDPServer, "request_queue_size", "UDPServer has no option"),
        (UDPServer, "end_when_draining", "UDPServer has no option"),
        (ThreadingTCPServer, "max_children", "ThreadingTCPServer has no option"),
        (ForkingTCPServer, "daemon_threads", "ForkingTCPServer has no option"),
    ],
)
def test_an_unknown_option_is_an_error(server_class: Any, name: str, hint: str) -> None:
    with pytest.raises(TypeError) as raised:
        server_class(LOCALHOST, Nothing, **{name: 1})
    assert hint in str(raised.value)


BAD_VALUES = [
    *(
        (name, value, "True or False")
        for name in ("allow_reuse_address",)
        for value in (2, "yes", None)
    ),
    ("allow_reuse_port", "no", "True or False"),
    *(
        (name, value, "a whole number above 0")
        for name in ("max_line_size", "max_block_size", "address_family")
        for value in (0, -1, 1.5, "1", True, None)
    ),
    *(("request_queue_size", v, "a whole number, 0 or above") for v in (-1, 1.5, True, None)),
    *(
        ("linger_timeout", v, "a number of seconds, 0 or above")
        for v in (-1, "1", None, True, float("nan"))
    ),
    *(
        (name, value, "a number of seconds, 0 or above, or None")
        for name in ("timeout", "shutdown_timeout")
        for value in (-0.1, "1", False, float("nan"))
    ),
    *(("max_threads", v, "a whole number above 0, or None") for v in (0, -1, 2.0, "many")),
]


@pytest.mark.parametrize(("name", "value", "wanted"), BAD_VALUES)
def test_a_bad_value_is_an_error_wherever_it_is_set(name: str, value: Any, wanted: str) -> None:
    message = f".{name} must be {wanted}, and is {value!r}"
    options: Any = {name: value}
    with pytest.raises(ValueError) as by_keyword:
        TCPServer(LOCALHOST, Nothing, **options)
    assert str(by_keyword.value) == f"TCPServer{message}"
    bad = type("Bad", (TCPServer,), options)
    with pytest.raises(ValueError) as by_class:
        bad(LOCALHOST, Nothing)
    assert str(by_class.value) == f"Bad{message}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("daemon_threads", "yes"),
        ("block_on_close", 2),
        ("reuse_threads", None),
        ("max_concurrency", 0),
        ("max_packet_size", -1),
        ("max_queue", -1),
    ],
)
def test_a_bad_value_of_a_mix_in_or_a_datagram_server_is_an_error(name: str, value: Any) -> None:
    options: Any = {name: value}
    with pytest.raises(ValueError, match=f"ThreadingUDPServer.{name} must be"):
        ThreadingUDPServer(LOCALHOST, Nothing, **options)


def test_a_bad_number_of_children_is_an_error() -> None:
    with pytest.raises(ValueError, match="max_children must be a whole number above 0"):
        ForkingTCPServer(LOCALHOST, Nothing, max_children=0)


def test_0_and_1_are_flags_and_0_is_a_number_of_seconds() -> None:
    options: Any = {"allow_reuse_address": 1, "allow_reuse_port": 0}
    server = TCPServer(LOCALHOST, Nothing, shutdown_timeout=0, linger_timeout=0, **options)
    server.server_close()


def test_an_endless_time_out_is_given_as_none() -> None:
    with pytest.raises(ValueError, match="a number of seconds, 0 or above, or None"):
        TCPServer(LOCALHOST, Nothing, shutdown_timeout=float("inf"))


def test_socket_options_are_set() -> None:
    server = TCPServer(LOCALHOST, Nothing, allow_reuse_port=True)
    assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    server.server_close()
    server = TCPServer(LOCALHOST, Nothing, allow_reuse_address=False)
    assert not server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    server.server_close()
    UnixStreamServer("\0", Nothing, allow_reuse_port=True).server_close()

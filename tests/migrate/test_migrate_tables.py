"""What the migration knows of a handler's objects is what these objects have."""

import inspect
import io
import pkgutil
import socket
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import DatagramSocket, SocketReader, SocketWriter, StreamSocket
from aiosocketserver.migrate.io_calls import (
    ATTRIBUTES,
    AWAITED,
    HOOKS,
    INSTEAD_OF_HANDING,
    PLAIN,
    WAYS_OUT,
    Kind,
)

# What a legacy handler has, and what a coroutine handler has in its place.
OBJECTS: dict[Kind, tuple[type, type]] = {
    Kind.REQUEST: (socket.socket, StreamSocket),
    Kind.READER: (io.BufferedReader, SocketReader),
    # socketserver's own class is private; it is a BufferedIOBase.
    Kind.WRITER: (io.BufferedIOBase, SocketWriter),
    Kind.DATAGRAMS: (socket.socket, DatagramSocket),
}

# The descriptor is the loop's, and detach() gives it away in the wrong mode.
NOT_OFFERED = {"detach", "fileno"}


def names(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("kind", OBJECTS)
def test_methods(kind: Kind) -> None:
    legacy, new = OBJECTS[kind]
    both = names(legacy) & names(new)
    awaited = {name for name in both if inspect.iscoroutinefunction(getattr(new, name))}
    assert AWAITED[kind] == awaited
    assert PLAIN[kind] == both - awaited - NOT_OFFERED
    told = {name for of, name in WAYS_OUT if of is kind}
    assert told <= names(legacy) | {"getpeercert", "read", "write", "closed"}
    assert not told & (AWAITED[kind] | PLAIN[kind])


def test_iteration_over_rfile_is_awaited() -> None:
    assert hasattr(SocketReader, "__aiter__")
    assert not hasattr(SocketReader, "__iter__")


# By the annotations of the handler classes.
KINDS = {kind.__name__: name for name, (_, kind) in OBJECTS.items()}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_and_hooks(name: str) -> None:
    handler: Any = getattr(aiosocketserver, name)
    annotated = [item for cls in handler.__mro__ for item in inspect.get_annotations(cls).items()]
    found = {attribute: KINDS[kind] for attribute, kind in annotated if kind in KINDS}
    # A socket, or a pair with a socket in it.
    assert found | {"request": Kind.REQUEST} == ATTRIBUTES[name]
    assert all(inspect.iscoroutinefunction(getattr(handler, hook)) for hook in HOOKS)


def test_ways_out_are_of_things_that_there_are() -> None:
    for function in INSTEAD_OF_HANDING:
        assert callable(pkgutil.resolve_name(function))

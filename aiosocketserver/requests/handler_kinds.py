"""Which kind of handler a RequestHandlerClass is, told when the server is made.

A mistake here would otherwise be a connection that closes without a word: a coroutine
that nobody awaits, or a blocking call on the loop.
"""

from __future__ import annotations

import functools
import inspect
import socketserver
from collections.abc import Callable
from enum import Enum
from typing import Any

from .handlers import BaseRequestHandler
from .partials import without_arguments


class HandlerKind(Enum):
    """How a handler runs."""

    COROUTINE = "as a task on the server's loop"
    LEGACY = "in a thread or child of its own, with blocking calls"


def handler_kind(handler: object, *, mix_in: bool) -> HandlerKind:
    """The kind of `handler`, a RequestHandlerClass.

    `mix_in` tells whether the server can run legacy handlers. Raises TypeError, which
    says what to change, for everything that could not work.
    """
    target = without_arguments(handler)
    if not callable(target):
        raise TypeError(f"RequestHandlerClass must be a handler class, not {target!r}")
    if not inspect.isclass(target):
        if inspect.iscoroutinefunction(target):
            raise TypeError(
                f"RequestHandlerClass is the coroutine function {_name(target)}: put it into "
                "a class derived from aiosocketserver.BaseRequestHandler, as its handle()"
            )
        return _legacy(f"the factory {_name(target)} makes legacy handlers", mix_in)
    if issubclass(target, BaseRequestHandler):
        _check_coroutine_handler(target)
        return HandlerKind.COROUTINE
    return _legacy_class(target, mix_in)


def _check_coroutine_handler(cls: type[BaseRequestHandler]) -> None:
    if cls.handle is BaseRequestHandler.handle:
        raise TypeError(f"{_name(cls)} has no handle(): define `async def handle(self)`")
    # A decorator made with functools.wraps leads back to the coroutine that it wraps.
    plain = [
        name
        for name in ("setup", "handle", "finish")
        if not _is_coroutine_function(cls, name)
        and not inspect.iscoroutinefunction(inspect.unwrap(getattr(cls, name)))
    ]
    if "handle" in plain:
        raise TypeError(
            f"{_name(cls)}.handle() is a plain function, and its base class "
            f"{_base(cls)} is for coroutines: make it `async def handle(self)` and put "
            "`await` before each I/O call, or derive from socketserver's own handler "
            "class to run it in threads"
        )
    if plain:
        raise TypeError(
            f"{_name(cls)}.{plain[0]}() is a plain function beside a coroutine handle(): "
            f"make it `async def {plain[0]}(self)`"
        )


def _legacy_class(cls: type, mix_in: bool) -> HandlerKind:
    handle = getattr(cls, "handle", None)
    if handle is None or handle is socketserver.BaseRequestHandler.handle:
        raise TypeError(f"{_name(cls)} has no handle(): a handler class must define it")
    for name in ("handle", "setup", "finish"):
        # Not what a decorator wraps, which may well run it in a loop of its own.
        if getattr(cls, name, None) is not None and _is_coroutine_function(cls, name):
            base = "StreamRequestHandler" if hasattr(cls, "rbufsize") else "BaseRequestHandler"
            raise TypeError(
                f"{_name(cls)}.{name}() is a coroutine, and its base class {_base(cls)} would "
                f"never await it: derive from aiosocketserver.{base}"
            )
    return _legacy(f"{_name(cls)}.handle() is a plain function", mix_in)


def _legacy(what: str, mix_in: bool) -> HandlerKind:
    if not mix_in:
        raise TypeError(
            f"{what}, which would block the loop: use a server class with ThreadingMixIn "
            "(ThreadingTCPServer, ...), ForkingMixIn or GreenletMixIn, or make it a coroutine on "
            "aiosocketserver's handler classes"
        )
    return HandlerKind.LEGACY


def _is_coroutine_function(cls: type, name: str) -> bool:
    function = getattr(cls, name)
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{_name(cls)}.{name}() is an asynchronous generator, because it has a `yield`: "
            "make it a coroutine"
        )
    return inspect.iscoroutinefunction(function)


def _name(thing: object) -> str:
    return getattr(thing, "__qualname__", None) or repr(thing)


def _base(cls: type) -> str:
    base = cls.__mro__[1]
    return f"{base.__module__}.{base.__qualname__}"


# What a handler class has that defines none of its own.
_CONSTRUCTOR = socketserver.BaseRequestHandler.__init__


def run_legacy(handler: Callable[..., Any], *args: Any) -> None:
    """Make a legacy handler, which serves the request, and see that nothing goes unsaid.

    socketserver drops what `setup`, `handle` and `finish` return. An awaitable among it
    means that they have not run, so that is a TypeError here. A class with a constructor
    of its own calls them itself, and only Python's RuntimeWarning about the coroutine
    that nobody awaits tells then: whatever could watch it there, its handlers could see.
    """
    target: Any = handler
    keywords: dict[str, Any] = {}
    while isinstance(target, functools.partial):
        args, keywords = target.args + args, {**target.keywords, **keywords}
        target = target.func
    # Only what `type.__call__` does can be done in two steps.
    if not (isinstance(target, type) and type(target).__call__ is type.__call__):
        _refuse_awaitable(_name(handler), target(*args, **keywords))
        return
    # What follows is `target(*args, **keywords)`.
    cls: Any = target
    instance: Any = cls.__new__(cls, *args, **keywords)
    if cls not in type(instance).__mro__:
        return
    construct: Any = type(instance).__init__
    if len(args) != 3 or keywords:
        construct(instance, *args, **keywords)
        return
    # Not `construct(instance, *args)`: that uses the C stack, which greenlets copy at each
    # switch.
    request, client_address, server = args
    if construct is _CONSTRUCTOR:
        construct = _construct_watched
    construct(instance, request, client_address, server)


def _construct_watched(instance: Any, request: Any, client_address: Any, server: Any) -> None:
    """What socketserver's constructor does, with an eye on what the three methods return."""
    instance.request = request
    instance.client_address = client_address
    instance.server = server
    _check_result(instance, "setup", instance.setup())
    try:
        _check_result(instance, "handle", instance.handle())
    finally:
        _check_result(instance, "finish", instance.finish())


def _check_result(instance: Any, method: str, result: object) -> None:
    if result is not None:
        _refuse_awaitable(f"{_name(instance.__class__)}.{method}", result)


def _refuse_awaitable(called: str, result: object) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            f"{called}() is a plain function that returned an awaitable, "
            f"{type(result).__qualname__}, which nobody would await: make it `async def` on "
            "aiosocketserver's handler classes"
        )

"""Overridden hooks have to await what they make: what is forgotten would never run."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Protocol

from .failures import awaitable
from .handlers import BaseRequestHandler, coroutine_of

# What was made for an overridden finish_request() or process_request() to await.
_to_await: ContextVar[list[BaseRequestHandler | Coroutine[Any, Any, None]] | None] = ContextVar(
    "aiosocketserver_to_await", default=None
)


def made_to_await() -> list[BaseRequestHandler | Coroutine[Any, Any, None]] | None:
    """The handlers and coroutines that the running hook has created; None outside a hook.

    They are kept to check that the hook awaits each of them.
    """
    return _to_await.get()


class AwaitingHost(Protocol):
    """A server with such hooks."""

    def process_request(self, request: Any, client_address: Any) -> Any: ...

    def finish_request(self, request: Any, client_address: Any) -> Any: ...


async def process_checked(server: AwaitingHost, request: Any, client_address: Any) -> None:
    """Call an overridden process_request(), and see that it dropped nothing unawaited.

    What is kept may be awaited later, by another task.
    """
    made: list[BaseRequestHandler | Coroutine[Any, Any, None]] = []
    token = _to_await.set(made)
    try:
        processing = server.process_request(request, client_address)
        if awaitable(processing):
            await coroutine_of(processing)
        del processing
    finally:
        _to_await.reset(token)
    unawaited = [(weakref.ref(it), type(it)) for it in made if not _was_awaited(it)]
    made.clear()
    for reference, kind in unawaited:
        if reference() is not None:
            continue
        is_handler = issubclass(kind, BaseRequestHandler)
        what = "self.finish_request" if is_handler else "super().process_request"
        raise RuntimeError(
            f"{type(server).__qualname__}.process_request() did not await the "
            f"{kind.__qualname__} that {what}() returned, so that it never ran: write "
            f"`await {what}(...)`"
        )


async def finish_checked(server: AwaitingHost, request: Any, client_address: Any) -> None:
    """Call an overridden finish_request(), and see that the handler was awaited."""
    made: list[BaseRequestHandler | Coroutine[Any, Any, None]] = []
    token = _to_await.set(made)
    try:
        result = server.finish_request(request, client_address)
        if awaitable(result):
            await coroutine_of(result)
    finally:
        _to_await.reset(token)
    for handler in made:
        if not _was_awaited(handler):
            raise RuntimeError(
                f"{type(server).__qualname__}.finish_request() made a "
                f"{type(handler).__qualname__} and did not await it, so that it never "
                "ran: write `await self.RequestHandlerClass(...)`"
            )


def _was_awaited(made: BaseRequestHandler | Coroutine[Any, Any, None]) -> bool:
    if isinstance(made, BaseRequestHandler):
        return made._awaited
    return inspect.getcoroutinestate(made) != inspect.CORO_CREATED


def check_finished(server: object, result: object) -> None:
    """See that nothing is left to await of what finish_request() did for a legacy handler."""
    if awaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            f"{type(server).__qualname__}.finish_request() returned an awaitable, which nobody "
            "awaits for a legacy handler: make it a plain function"
        )

"""Which handlers are for the loop, and which for a blocking call."""

from __future__ import annotations

import inspect

from aiosocketserver.requests.handler_kinds import HandlerKind, handler_kind
from aiosocketserver.requests.handlers import BaseRequestHandler
from aiosocketserver.requests.partials import without_arguments


def is_coroutine_handler(handler: object) -> bool:
    """Whether a RequestHandlerClass is for the loop and not for a blocking call.

    Raises TypeError, which says what to change, where coroutines and plain functions
    are mixed in one class.
    """
    target = without_arguments(handler)
    if not isinstance(target, type):
        if inspect.iscoroutinefunction(target):
            # Whose result nobody would await. It raises, and says what to change.
            handler_kind(handler, mix_in=True)
        return False
    # Everything else that socketserver takes is fine, a class without handle() too.
    hooks = (getattr(target, name, None) for name in ("setup", "handle", "finish"))
    if not issubclass(target, BaseRequestHandler) and not any(
        inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook) for hook in hooks
    ):
        return False
    return handler_kind(handler, mix_in=True) is HandlerKind.COROUTINE

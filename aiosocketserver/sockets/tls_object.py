"""The `ssl_object` of a handler: what its methods make OpenSSL say leaves at once.

OpenSSL puts what it has to say into memory, where it would stay until the handler's next
byte takes it along.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ..optional_ssl import ssl


def have_speak(shown: ssl.SSLObject, speak: Callable[[], Callable[[], object] | None]) -> None:
    """Have each call on `shown` that may leave something in memory call `speak()`, if it is one."""
    made: Any = shown
    # The class may be the program's own, see SSLContext.sslobject_class.
    made.__class__ = _speaking(cast(Any, type(shown)))
    made._speak = speak


@functools.cache
def _speaking(base: Any) -> Any:
    def verify_client_post_handshake(self: Any) -> None:
        base.verify_client_post_handshake(self)
        # OpenSSL has made a note of it, and asks the client when it is called next.
        self.do_handshake()

    # Of one base, as an object whose class is changed may have no other.
    methods: dict[str, Any] = {
        "verify_client_post_handshake": verify_client_post_handshake,
        "do_handshake": _and_speak(base.do_handshake),
        "write": _and_speak(base.write),
        "unwrap": _and_speak(base.unwrap),
    }
    return type(base.__name__, (base,), methods)


def _and_speak(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any) -> Any:
        try:
            return method(self, *args)
        finally:
            speak = self._speak()
            if speak is not None:
                speak()

    return call

"""compat's server classes that are made with its mix-ins, and all names that it has from there."""

from __future__ import annotations

import socketserver
from typing import Any

from . import mix_ins
from .servers import TCPServer, counterpart, counterparts


class GreenletTCPServer(mix_ins.GreenletMixIn, TCPServer):
    """`TCPServer` that handles each connection in a greenlet."""


if hasattr(socketserver, "UnixStreamServer"):

    class GreenletUnixStreamServer(
        mix_ins.GreenletMixIn,
        counterpart(socketserver.UnixStreamServer),  # type: ignore[misc]
    ):
        """`UnixStreamServer` that handles each connection in a greenlet."""


counterparts[socketserver.ThreadingMixIn] = mix_ins.ThreadingMixIn
if hasattr(socketserver, "ForkingMixIn"):
    counterparts[socketserver.ForkingMixIn] = mix_ins.ForkingMixIn


def public_names() -> dict[str, Any]:
    """All that `socketserver.__all__` names: counterparts, and the handler classes themselves."""
    names: dict[str, Any] = {}
    standard: list[str] = vars(socketserver)["__all__"]
    for name in standard:
        thing = getattr(socketserver, name)
        if isinstance(thing, type) and (
            thing in counterparts or issubclass(thing, socketserver.BaseServer)
        ):
            thing = counterpart(thing)
            # The module of one that is made here would be `abc`, of whoever calls type().
            thing.__module__ = __package__
        names[name] = thing
    return names

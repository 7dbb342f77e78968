"""socketserver's server classes and mix-ins, each over the one that it stands for.

Each class here has its counterpart before the classes that it shares with others:

    UDPServer, socketserver.UDPServer, TCPServer, socketserver.TCPServer, BaseServer, ...

so that what is set on one class, here or there, is found where it would be found among
socketserver's own, and nowhere else.
"""

from __future__ import annotations

import socketserver
from typing import Any

from . import mix_ins
from .engine import Engine


class BaseServer(Engine, socketserver.BaseServer):
    __doc__ = socketserver.BaseServer.__doc__


class TCPServer(  # pyright: ignore[reportIncompatibleVariableOverride]
    socketserver.TCPServer, BaseServer
):
    __doc__ = socketserver.TCPServer.__doc__

    def server_close(self) -> None:
        """Close the server. A `serve_forever` that runs ends. May be overridden."""
        # socketserver.TCPServer's calls no other.
        self._aiosocketserver.stop_servings()
        super().server_close()


# The counterpart of each of socketserver's classes that is a server or a mix-in.
_counterparts: dict[type, Any] = {
    socketserver.BaseServer: BaseServer,
    socketserver.TCPServer: TCPServer,
    socketserver.ThreadingMixIn: mix_ins.ThreadingMixIn,
}
if hasattr(socketserver, "ForkingMixIn"):
    _counterparts[socketserver.ForkingMixIn] = mix_ins.ForkingMixIn


def _counterpart(cls: type) -> Any:
    if cls not in _counterparts:
        bases = (cls, *(_counterpart(base) for base in cls.__bases__ if base is not object))
        _counterparts[cls] = type(cls.__name__, bases, {"__doc__": cls.__doc__})
    return _counterparts[cls]


class GreenletTCPServer(mix_ins.GreenletMixIn, TCPServer):
    """`TCPServer` that handles each connection in a greenlet."""


if hasattr(socketserver, "UnixStreamServer"):

    class GreenletUnixStreamServer(
        mix_ins.GreenletMixIn,
        _counterpart(socketserver.UnixStreamServer),  # type: ignore[misc]
    ):
        """`UnixStreamServer` that handles each connection in a greenlet."""


def public_names() -> dict[str, Any]:
    """All that `socketserver.__all__` names: counterparts, and the handler classes themselves."""
    names: dict[str, Any] = {}
    standard: list[str] = vars(socketserver)["__all__"]
    for name in standard:
        thing = getattr(socketserver, name)
        if isinstance(thing, type) and (
            thing in _counterparts or issubclass(thing, socketserver.BaseServer)
        ):
            thing = _counterpart(thing)
            # The module of one that is made here would be `abc`, of whoever calls type().
            thing.__module__ = __package__
        names[name] = thing
    return names

"""socketserver's server classes, each over the one that it stands for.

Each class here has its counterpart before the classes that it shares with others:

    UDPServer, socketserver.UDPServer, TCPServer, socketserver.TCPServer, BaseServer, ...

so that what is set on one class, here or there, is found where it would be found among
socketserver's own, and nowhere else.
"""

from __future__ import annotations

import socketserver
from typing import Any

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


# Those made so far, by the class that they stand for. The mix-ins come in when they are made.
counterparts: dict[type, Any] = {
    socketserver.BaseServer: BaseServer,
    socketserver.TCPServer: TCPServer,
}

# socketserver's server classes that are made without a mix-in: TCPServer, UDPServer, ...
_PLAIN_SERVERS = {
    cls
    for cls in vars(socketserver).values()
    if isinstance(cls, type)
    and issubclass(cls, socketserver.BaseServer)
    and all(issubclass(base, socketserver.BaseServer) for base in cls.__mro__[:-1])
}


def counterpart(cls: type) -> Any:
    """The class that stands for one of socketserver's, made if need be."""
    if cls not in counterparts:
        bases = (cls, *(counterpart(base) for base in cls.__bases__ if base is not object))
        counterparts[cls] = type(cls.__name__, bases, {"__doc__": cls.__doc__})
    return counterparts[cls]


def give_engine(cls: type) -> None:
    """Have a class that has a mix-in of compat over a server without the engine be served by it.

    Each plain server class of socketserver gets its counterpart in front, and nothing
    else changes its place in the method resolution order. What is no server, or has the
    engine, stays as it is.
    """
    if not issubclass(cls, socketserver.BaseServer) or issubclass(cls, Engine):
        return
    bases: list[type] = []
    for each in cls.__mro__:
        if each in _PLAIN_SERVERS:
            ours = counterpart(each)
            if not (bases and issubclass(bases[-1], ours)):
                bases.append(ours)
        elif each in cls.__bases__:
            bases.append(each)
    cls.__bases__ = tuple(bases)

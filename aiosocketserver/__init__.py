"""socketserver's classes and hooks on an asyncio event loop.

Handlers are coroutines (`async def handle`), or legacy ones in threads and children.

PYTEST_DONT_REWRITE: the package has a plugin for pytest, which would warn that the
package is imported already, as it is under `python -m aiosocketserver.compat -m pytest`.
"""

from __future__ import annotations

import importlib
import os
import socket
from typing import TYPE_CHECKING, Any

from ._log_records import request_id
from .datagram_server import UDPServer
from .datagram_socket import DatagramSocket
from .draining import ShutdownReport
from .errors import LimitExceeded, TimedOut
from .files import SocketReader, SocketWriter
from .greenlets import GreenletMixIn
from .handlers import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from .mixed_servers import GreenletTCPServer, ThreadingTCPServer, ThreadingUDPServer
from .offload import ThreadingMixIn
from .options import ServerOptions
from .proxy_protocol import ProxyHeader, proxy_header
from .server import BaseServer
from .sockets import StreamSocket
from .statistics import Statistics
from .stream_server import TCPServer
from .tls import CertificateFiles

if TYPE_CHECKING:
    from .deploy import StartError, run, serving
    from .greenlet_socket import GreenletSocket

# The only place: pyproject.toml and the command line have it from here.
__version__ = "0.1.0"

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "CertificateFiles",
    "DatagramRequestHandler",
    "DatagramSocket",
    "GreenletMixIn",
    "GreenletSocket",
    "GreenletTCPServer",
    "LimitExceeded",
    "ProxyHeader",
    "ServerOptions",
    "ShutdownReport",
    "SocketReader",
    "SocketWriter",
    "StartError",
    "Statistics",
    "StreamRequestHandler",
    "StreamSocket",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "TimedOut",
    "UDPServer",
    "proxy_header",
    "request_id",
    "run",
    "serving",
]

# As in socketserver, a name is there when the system has what it stands for.
if hasattr(os, "fork"):
    from .forking import ForkingMixIn
    from .mixed_servers import ForkingTCPServer, ForkingUDPServer

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]
if hasattr(socket, "AF_UNIX"):
    from .datagram_server import UnixDatagramServer
    from .mixed_servers import (
        GreenletUnixStreamServer,
        ThreadingUnixDatagramServer,
        ThreadingUnixStreamServer,
    )
    from .stream_server import UnixStreamServer

    __all__ += [
        "GreenletUnixStreamServer",
        "ThreadingUnixDatagramServer",
        "ThreadingUnixStreamServer",
        "UnixDatagramServer",
        "UnixStreamServer",
    ]
    if hasattr(os, "fork"):
        from .mixed_servers import ForkingUnixDatagramServer, ForkingUnixStreamServer

        __all__ += ["ForkingUnixDatagramServer", "ForkingUnixStreamServer"]


# Loaded when they are first used: a program that serves by itself needs none of them.
_LOADED_LATER = {
    "GreenletSocket": "greenlet_socket",
    "StartError": "deploy",
    "run": "deploy",
    "serving": "deploy",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_LOADED_LATER[name]}", __name__)
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_LATER})

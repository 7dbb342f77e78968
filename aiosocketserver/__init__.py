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

from .compiled import native as _native
from .errors import LimitExceeded, TimedOut
from .greenlets.mix_in import GreenletMixIn
from .mixed_servers import GreenletTCPServer, ThreadingTCPServer, ThreadingUDPServer
from .options.keywords import ServerOptions
from .requests.handlers import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from .requests.log_records import request_id
from .requests.statistics import Statistics
from .requests.views import RequestInProgress
from .servers.base import BaseServer
from .servers.certificates import CertificateFiles
from .servers.datagram import UDPServer
from .servers.draining import ShutdownReport
from .servers.in_threads import ThreadingMixIn
from .servers.proxy_protocol import ProxyHeader, proxy_header
from .servers.stream import TCPServer
from .sockets.datagram import DatagramSocket
from .sockets.files import SocketReader, SocketWriter
from .sockets.stream import StreamSocket
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .deploy import StartError, run, serving
    from .greenlets.greenlet_socket import GreenletSocket

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
    "RequestInProgress",
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

# Whether the compiled core runs, and not the one in Python.
native: bool = _native is not None

# As in socketserver, a name is there when the system has what it stands for.
if hasattr(os, "fork"):
    from .mixed_servers import ForkingTCPServer, ForkingUDPServer
    from .servers.in_children import ForkingMixIn

    __all__ += ["ForkingMixIn", "ForkingTCPServer", "ForkingUDPServer"]
if hasattr(socket, "AF_UNIX"):
    from .mixed_servers import (
        GreenletUnixStreamServer,
        ThreadingUnixDatagramServer,
        ThreadingUnixStreamServer,
    )
    from .servers.datagram import UnixDatagramServer
    from .servers.stream import UnixStreamServer

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
    "GreenletSocket": "greenlets.greenlet_socket",
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

"""socketserver's classes and hooks on an asyncio event loop.

Handlers are coroutines (`async def handle`), or legacy ones in threads and children.
"""

from __future__ import annotations

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


def __getattr__(name: str) -> Any:
    # So that a program which serves by itself does not load them.
    if name in ("StartError", "run", "serving"):
        from . import deploy

        return getattr(deploy, name)
    # It needs greenlet.
    if name == "GreenletSocket":
        from .greenlet_socket import GreenletSocket

        return GreenletSocket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

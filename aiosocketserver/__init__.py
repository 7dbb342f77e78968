"""socketserver's classes and hooks on an asyncio event loop.

Handlers are coroutines (`async def handle`), or legacy ones in threads and children.
"""

from __future__ import annotations

from .datagram_server import UDPServer, UnixDatagramServer
from .datagrams import DatagramSocket
from .errors import LimitExceeded
from .files import SocketReader, SocketWriter
from .forking import ForkingMixIn
from .handlers import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler
from .mixed_servers import (
    ForkingTCPServer,
    ForkingUDPServer,
    ForkingUnixDatagramServer,
    ForkingUnixStreamServer,
    ThreadingTCPServer,
    ThreadingUDPServer,
    ThreadingUnixDatagramServer,
    ThreadingUnixStreamServer,
)
from .offload import ThreadingMixIn
from .options import ServerOptions
from .server import BaseServer
from .sockets import StreamSocket
from .statistics import Statistics
from .stream_server import TCPServer, UnixStreamServer

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "DatagramSocket",
    "ForkingMixIn",
    "ForkingTCPServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "LimitExceeded",
    "ServerOptions",
    "SocketReader",
    "SocketWriter",
    "Statistics",
    "StreamRequestHandler",
    "StreamSocket",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "UnixDatagramServer",
    "UnixStreamServer",
]

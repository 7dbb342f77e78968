"""The server classes that socketserver makes from its mix-ins."""

from __future__ import annotations

from .datagram_server import UDPServer, UnixDatagramServer
from .forking import ForkingMixIn
from .offload import ThreadingMixIn
from .stream_server import TCPServer, UnixStreamServer


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """`TCPServer` that runs legacy handlers in threads."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """`UDPServer` that runs legacy handlers in threads."""


class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
    """`UnixStreamServer` that runs legacy handlers in threads."""


class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
    """`UnixDatagramServer` that runs legacy handlers in threads."""


class ForkingTCPServer(ForkingMixIn, TCPServer):
    """`TCPServer` that runs legacy handlers in children."""


class ForkingUDPServer(ForkingMixIn, UDPServer):
    """`UDPServer` that runs legacy handlers in children."""


class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
    """`UnixStreamServer` that runs legacy handlers in children."""


class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
    """`UnixDatagramServer` that runs legacy handlers in children."""

"""The server classes that socketserver makes from its mix-ins, as far as the system has them."""

from __future__ import annotations

import os
import socket

from .greenlets.mix_in import GreenletMixIn
from .servers.datagram import UDPServer
from .servers.in_children import ForkingMixIn
from .servers.in_threads import ThreadingMixIn
from .servers.stream import TCPServer


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """`TCPServer` that runs legacy handlers in threads."""


class GreenletTCPServer(GreenletMixIn, TCPServer):
    """`TCPServer` that runs legacy handlers in greenlets."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """`UDPServer` that runs legacy handlers in threads."""


if hasattr(os, "fork"):

    class ForkingTCPServer(ForkingMixIn, TCPServer):
        """`TCPServer` that runs legacy handlers in children."""

    class ForkingUDPServer(ForkingMixIn, UDPServer):
        """`UDPServer` that runs legacy handlers in children."""


if hasattr(socket, "AF_UNIX"):
    from .servers.datagram import UnixDatagramServer
    from .servers.stream import UnixStreamServer

    class GreenletUnixStreamServer(GreenletMixIn, UnixStreamServer):
        """`UnixStreamServer` that runs legacy handlers in greenlets."""

    class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
        """`UnixStreamServer` that runs legacy handlers in threads."""

    class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
        """`UnixDatagramServer` that runs legacy handlers in threads."""

    if hasattr(os, "fork"):

        class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
            """`UnixStreamServer` that runs legacy handlers in children."""

        class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
            """`UnixDatagramServer` that runs legacy handlers in children."""

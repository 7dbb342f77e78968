# For type checkers: at run time these classes are made from socketserver's own, so that
# they are those of the Python that runs.
#
# typeshed gives each kind of server_address and get_request() types of its own.
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false

import socketserver
import sys
from collections.abc import Callable
from socketserver import BaseRequestHandler as BaseRequestHandler
from socketserver import DatagramRequestHandler as DatagramRequestHandler
from socketserver import StreamRequestHandler as StreamRequestHandler
from typing import Any

from .engine import Engine
from .install import install as install
from .install import uninstall as uninstall
from .mix_ins import GreenletMixIn as GreenletMixIn
from .mix_ins import ThreadingMixIn as ThreadingMixIn

class BaseServer(Engine, socketserver.BaseServer):
    # Coroutine handlers too, which the standard library's signature leaves out.
    def __init__(self, server_address: Any, RequestHandlerClass: Callable[..., Any]) -> None: ...

class TCPServer(socketserver.TCPServer, BaseServer):
    def __init__(
        self,
        server_address: Any,
        RequestHandlerClass: Callable[..., Any],
        bind_and_activate: bool = True,
    ) -> None: ...

class UDPServer(socketserver.UDPServer, TCPServer): ...
class GreenletTCPServer(GreenletMixIn, TCPServer): ...
class ThreadingTCPServer(socketserver.ThreadingTCPServer, ThreadingMixIn, TCPServer): ...
class ThreadingUDPServer(socketserver.ThreadingUDPServer, ThreadingMixIn, UDPServer): ...

if sys.platform != "win32":
    from .mix_ins import ForkingMixIn as ForkingMixIn

    class UnixStreamServer(socketserver.UnixStreamServer, TCPServer):
        def __init__(
            self,
            server_address: Any,
            RequestHandlerClass: Callable[..., Any],
            bind_and_activate: bool = True,
        ) -> None: ...

    class UnixDatagramServer(socketserver.UnixDatagramServer, UDPServer):
        def __init__(
            self,
            server_address: Any,
            RequestHandlerClass: Callable[..., Any],
            bind_and_activate: bool = True,
        ) -> None: ...

    class GreenletUnixStreamServer(GreenletMixIn, UnixStreamServer): ...
    class ThreadingUnixStreamServer(
        socketserver.ThreadingUnixStreamServer, ThreadingMixIn, UnixStreamServer
    ): ...
    class ThreadingUnixDatagramServer(
        socketserver.ThreadingUnixDatagramServer, ThreadingMixIn, UnixDatagramServer
    ): ...
    class ForkingTCPServer(socketserver.ForkingTCPServer, ForkingMixIn, TCPServer): ...
    class ForkingUDPServer(socketserver.ForkingUDPServer, ForkingMixIn, UDPServer): ...

    if sys.version_info >= (3, 12):
        class ForkingUnixStreamServer(
            socketserver.ForkingUnixStreamServer, ForkingMixIn, UnixStreamServer
        ): ...
        class ForkingUnixDatagramServer(
            socketserver.ForkingUnixDatagramServer, ForkingMixIn, UnixDatagramServer
        ): ...

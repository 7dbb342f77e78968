"""The base classes of coroutine handlers, under socketserver's names and hooks."""

from __future__ import annotations

import socket
from collections.abc import Generator
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ..sockets.files import SocketReader, SocketWriter
from ..sockets.plain_socket import is_error_of
from ..sockets.stream import StreamSocket
from ..sockets.unix import AF_UNIX

if TYPE_CHECKING:
    from ..sockets.datagram import DatagramSocket
    from .host import Host

# What one recv() of an rfile asks for when rbufsize is negative.
DEFAULT_SEGMENT_SIZE = 64 * 1024


class BaseRequestHandler:
    """Base class of coroutine handlers: an instance serves one request when it is awaited.

    To provide a service, derive a class that defines `async def handle(self)`. The
    server makes an instance for each request and awaits it, which runs `setup`,
    `handle` and `finish`: as in socketserver, `finish` also runs when `handle` has
    raised, and not when `setup` has. All run in one task on the server's loop.

    Methods that may be overridden, all of them coroutines:

    - setup()
    - handle()
    - finish()

    Instance variables:

    - request: a `StreamSocket` on stream servers, `(data, DatagramSocket)` on datagram
      servers, and whatever an overridden `get_request` returns
    - client_address: what the server's `get_request` returned
    - server: the server
    """

    request: Any
    client_address: Any

    def __init__(self, request: Any, client_address: Any, server: Host) -> None:
        """Keep the arguments. May be extended, with further arguments too."""
        self.request = request
        self.client_address = client_address
        self.server = server
        try:
            watched = server._checks_awaiting
        except AttributeError:
            raise TypeError(
                f"{type(self).__qualname__} is a coroutine handler, which a "
                f"{type(server).__module__}.{type(server).__qualname__} does not await: use a "
                "server class of aiosocketserver, or of aiosocketserver.compat"
            ) from None
        if watched:
            self._awaited = False
            server._made_to_await(self)

    # Whether nobody has forgotten to await this instance, as far as the server watches it.
    # Only until it is awaited is there anything of ours among the handler's attributes.
    _awaited = True

    def __await__(self) -> Generator[Any, Any, None]:
        if not self._awaited:
            del self._awaited
        return self._serve().__await__()

    async def _serve(self) -> None:
        await self.setup()
        try:
            await self.handle()
        except BaseException:
            try:
                await self.finish()
            except OSError as error:
                # The client is gone too; what handle() raised is what has to be told.
                if not is_error_of(error, self.request):
                    raise
            raise
        await self.finish()

    async def setup(self) -> None:
        """Called before `handle`. May be overridden."""

    async def handle(self) -> None:
        """Serve the request. Must be overridden."""
        raise NotImplementedError(f"{type(self).__qualname__} does not define handle()")

    async def finish(self) -> None:
        """Called after `handle`, also when that has raised. May be overridden."""


_AWAIT = BaseRequestHandler.__await__


def coroutine_of(made: Any) -> Any:
    """What the server awaits for `made`, which a hook returned: of a handler, its coroutine.

    `python -m asyncio ps` and `asyncio.capture_call_graph` (Python 3.14) follow what a
    coroutine awaits, and would end at `__await__`. One that a class has overridden is called.
    """
    if not isinstance(made, BaseRequestHandler) or type(made).__await__ is not _AWAIT:
        return made
    if not made._awaited:
        del made._awaited
    return made._serve()


class StreamRequestHandler(BaseRequestHandler):
    """A handler with `self.rfile` and `self.wfile` for stream sockets.

    Class variables that may be overridden, with socketserver's meaning:

    - timeout: seconds for each wait of the socket and the files; None, the default,
      for none
    - disable_nagle_algorithm: True (socketserver: False), because `wfile` joins small
      writes itself, so that Nagle's algorithm would only add the peer's delayed
      acknowledgement to each answer
    - rbufsize: the most that `rfile` receives at once; negative, the default, for
      64 KiB. There is no unbuffered `rfile`, so 0 counts as 1
    - wbufsize: 0, the default, as in socketserver, where it means that `write` returns
      when the kernel has the bytes. Here it has no such effect: what `wfile` joins
      leaves by itself in the same turn of the loop (see `SocketWriter`). Positive
      values, which there let bytes lie until `flush`, do the same

    Instance variables, beside those of `BaseRequestHandler`:

    - connection: the same as `request`
    - rfile, wfile: a `SocketReader` and a `SocketWriter`
    """

    rbufsize: ClassVar[int] = -1
    wbufsize: ClassVar[int] = 0
    timeout: ClassVar[float | None] = None
    disable_nagle_algorithm: ClassVar[bool] = True

    request: StreamSocket
    connection: StreamSocket
    rfile: SocketReader
    wfile: SocketWriter

    async def setup(self) -> None:
        """Make the files. An override calls this first."""
        request = cast("object", self.request)
        if not isinstance(request, StreamSocket):
            raise TypeError(
                f"{type(self).__qualname__} is a StreamRequestHandler and needs a stream "
                f"server, not {type(self.server).__qualname__}"
            )
        self.connection = request
        if self.timeout is not None:
            self.connection.settimeout(self.timeout)
        if self.disable_nagle_algorithm and self.connection.family != AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile = SocketReader(
            self.connection,
            segment_size=DEFAULT_SEGMENT_SIZE if self.rbufsize < 0 else max(1, self.rbufsize),
            max_line_size=self.server.max_line_size,
            max_block_size=self.server.max_block_size,
        )
        self.wfile = SocketWriter(self.connection)

    async def finish(self) -> None:
        """Let everything written leave. An override calls this."""
        await self.wfile.flush()


class DatagramRequestHandler(BaseRequestHandler):
    """A handler with `self.rfile` and `self.wfile` in memory, for datagram sockets.

    `rfile` holds the datagram; what is in `wfile` when `handle` returns is sent to the
    client as one datagram. As in socketserver both are `io.BytesIO`, whose methods are
    not awaited.

    Instance variables, beside those of `BaseRequestHandler`:

    - packet: the datagram
    - socket: the server's `DatagramSocket`
    - rfile, wfile: the files
    """

    packet: bytes
    socket: DatagramSocket
    rfile: BytesIO
    wfile: BytesIO

    async def setup(self) -> None:
        """Make the files. An override calls this first."""
        if isinstance(self.request, StreamSocket):
            raise TypeError(
                f"{type(self).__qualname__} is a DatagramRequestHandler and needs a datagram "
                f"server, not {type(self.server).__qualname__}"
            )
        self.packet, self.socket = self.request
        self.rfile = BytesIO(self.packet)
        self.wfile = BytesIO()

    async def finish(self) -> None:
        """Send the answer, empty or not. An override calls this."""
        await self.socket.sendto(self.wfile.getvalue(), self.client_address)

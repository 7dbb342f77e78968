"""One process of a service: its servers on one loop, from the first signal to the last request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..options.of_classes import options_of
from ..servers.draining import ShutdownReport
from ..servers.socket_server import SocketServer
from ..servers.stream import TCPServer, share_max_connections
from .binds import OpenSocket
from .errors import StartError
from .settings import Settings
from .targets import make_server

logger = logging.getLogger("aiosocketserver.deploy")


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes the event loop of that name."""
    if loop == "asyncio":
        return asyncio.SelectorEventLoop
    import uvloop

    return uvloop.new_event_loop


def make_servers(
    target: Any, opened: Sequence[OpenSocket], settings: Settings, options: Mapping[str, Any]
) -> list[SocketServer]:
    """A server for each socket, with one `max_connections` for all. Raises StartError."""
    certificates = settings.certificates
    servers: list[SocketServer] = []
    for each in opened:
        secured = {"ssl_context": certificates} if each.bind.encrypted else {}
        try:
            servers.append(make_server(target, each, {**options, **secured}))
        except OSError as error:
            raise StartError(
                f"{each} cannot be served: {'; '.join([str(error), *_notes(error)])}"
            ) from error
    known = {name for server in servers for name in options_of(type(server))}
    for name in options:
        if name not in known:
            raise StartError(f"{name} is given, and no server here has it")
    if "max_connections" in options:
        share_max_connections([s for s in servers if isinstance(s, TCPServer)])
    return servers


def _notes(error: BaseException) -> list[str]:
    notes: list[str] = getattr(error, "__notes__", [])
    return notes


class Service:
    """Servers on the running loop, until they are told to stop."""

    def __init__(self, servers: Sequence[SocketServer], drain_delay: float = 0.0) -> None:
        self.servers = servers
        self._drain_delay = drain_delay
        self.stopping = asyncio.Event()

    @property
    def shutdown_timeout(self) -> float | None:
        """Seconds that all servers have to drain, or None for ever."""
        limits = [server.shutdown_timeout for server in self.servers]
        return None if None in limits else max((limit for limit in limits if limit), default=0.0)

    def seconds_to_drain(self) -> float | None:
        """What requests have from now on, if the service is told to end; None without a limit."""
        limit = self.shutdown_timeout
        return None if limit is None else self._drain_delay + limit

    def reload_tls(self) -> bool:
        """Make the TLS contexts anew; one that does not load leaves the old one in use.

        Returns whether all have been made.
        """
        all_made = True
        for server in self.servers:
            if not (isinstance(server, TCPServer) and server._stages.secures):
                continue
            try:
                server.reload_tls()
            except (OSError, ValueError):
                all_made = False
                logger.exception("the certificate of %s was not reloaded", server.server_address)
            else:
                logger.info("the certificate of %s was reloaded", server.server_address)
        return all_made

    async def run(
        self, on_ready: Callable[[], object], on_stopping: Callable[[], object]
    ) -> BaseException | None:
        """Serve until `stopping` is set, wait for `drain_delay` seconds, and drain.

        Returns what a handler has raised to end its server: SystemExit or KeyboardInterrupt.
        """
        for server in self.servers:
            if isinstance(server, TCPServer) and server.end_when_draining is None:
                server.end_when_draining = True
        async with contextlib.AsyncExitStack() as stack:
            for server in self.servers:
                await stack.enter_async_context(server)
            for server in self.servers:
                await server.start_serving()
            serving = [asyncio.create_task(_serve(server)) for server in self.servers]
            on_ready()
            stopping = asyncio.create_task(self.stopping.wait())
            await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
            self.stopping.set()
            on_stopping()
            await asyncio.sleep(self._drain_delay)
            for server in self.servers:
                if isinstance(server, TCPServer):
                    server._closes_when_drained = True
            reports = await asyncio.gather(*(server.shutdown() for server in self.servers))
            _log_reports(reports)
            await stopping
            ends = await asyncio.gather(*serving)
            return next((end for end in ends if end is not None), None)


async def _serve(server: SocketServer) -> BaseException | None:
    # Raised out of a task, they would tear through the loop, and end the others unheard.
    try:
        await server.serve_forever()
    except (SystemExit, KeyboardInterrupt) as exit_:
        return exit_
    return None


def _log_reports(reports: Sequence[ShutdownReport]) -> None:
    finished, cut, abandoned = (sum(numbers) for numbers in zip(*reports, strict=True))
    logger.info("drained: %d requests finished, %d cut, %d abandoned", finished, cut, abandoned)

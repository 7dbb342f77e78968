"""Who is told of each request that has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..requests.statistics import RequestEnd
from ..servers.socket_server import SocketServer
from . import access_log
from .settings import Settings
from .snapshots import Durations


def observe(servers: Iterable[SocketServer], settings: Settings) -> Durations:
    """Have the requests of these servers counted, and logged if the settings say so."""
    durations = Durations()
    observers: list[Callable[[RequestEnd], object]] = [durations]
    if settings.access_log != "off":
        access_log.set_up()
        observers.append(access_log.OBSERVERS[settings.access_log])
    for server in servers:
        server._requests.observers += observers
    return durations

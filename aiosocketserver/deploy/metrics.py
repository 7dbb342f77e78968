"""Metrics for Prometheus, and health checks: a small HTTP server of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from .._printable import printable
from ..handlers import BaseRequestHandler
from ..sockets import StreamSocket
from ..stream_server import TCPServer
from .binds import OpenSocket
from .snapshots import BUCKETS, Snapshot, State

_PREFIX = "aiosocketserver_"

# Received at once; a scrape's request has a few hundred bytes.
_BLOCK = 16 * 1024

# What each counter is: see `Statistics`.
_COUNTERS = {
    "accepted": ("requests", "Requests that were taken on."),
    "handlers_failed": ("handlers_failed", "Requests whose handler raised an error."),
    "clients_vanished": ("clients_vanished", "Requests whose client's connection broke."),
    "handshakes_failed": ("handshakes_failed", "Connections whose TLS handshake failed."),
    "bytes_received": ("received_bytes", "Bytes that handlers on the loop received."),
    "bytes_sent": ("sent_bytes", "Bytes that handlers on the loop sent."),
    "accept_pauses": ("accept_pauses", "How often accepting has paused."),
    "datagrams_received": ("datagrams_received", "Datagrams that were read."),
    "datagrams_dropped": ("datagrams_dropped", "Datagrams dropped by the server."),
    "datagrams_truncated": ("datagrams_truncated", "Datagrams cut to max_packet_size."),
    "datagrams_dropped_by_kernel": (
        "datagrams_dropped_by_kernel",
        "Datagrams dropped by the kernel.",
    ),
    "log_records_dropped": (
        "log_records_dropped",
        "Log records dropped because standard output or error was not read.",
    ),
}


class MetricsServer(TCPServer):
    """Answers `/metrics`, `/healthz` and `/readyz` on a socket that is open.

    - snapshot: what the service has counted
    - state: what it is doing
    """

    request_timeout = 10.0
    max_connections = 64

    def __init__(
        self,
        opened: OpenSocket,
        snapshot: Callable[[], Awaitable[Snapshot]],
        state: Callable[[], State],
    ) -> None:
        super().__init__(None, _Handler, bind_and_activate=False, sock=opened.sock)
        self._snapshot = snapshot
        self._state = state

    async def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body for a path."""
        state = self._state()
        match path:
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, render(await self._snapshot(), state)
            case "/healthz":
                return 200, "text/plain", b"alive\n"
            case "/readyz" if state.ready:
                return 200, "text/plain", b"ready\n"
            case "/readyz":
                return 503, "text/plain", b"not ready\n"
            case _:
                return 404, "text/plain", b"there are /metrics, /healthz and /readyz\n"


class _Handler(BaseRequestHandler):
    request: StreamSocket
    server: MetricsServer

    async def handle(self) -> None:
        connection = h11.Connection(h11.SERVER)
        self.request.end_when_draining()
        while True:
            try:
                await self._answer_one(connection)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    body = f"{printable(str(error))}\n".encode()
                    await self._respond(connection, error.error_status_hint, "text/plain", body)
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer_one(self, connection: h11.Connection) -> None:
        request: h11.Request | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await self.request.recv(_BLOCK))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                break
            elif not isinstance(event, h11.Data):
                # The client has closed.
                return
        assert request is not None
        if request.method not in (b"GET", b"HEAD"):
            await self._respond(connection, 405, "text/plain", b"only GET and HEAD\n")
            return
        path = request.target.decode("latin-1").partition("?")[0]
        status, content_type, body = await self.server.answer(path)
        head = request.method == b"HEAD"
        await self._respond(connection, status, content_type, body, head=head)

    async def _respond(
        self,
        connection: h11.Connection,
        status: int,
        content_type: str,
        body: bytes,
        *,
        head: bool = False,
    ) -> None:
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        if self.server.draining or connection.their_state is h11.ERROR:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(status).phrase
        answer = connection.send(
            h11.Response(status_code=status, headers=headers, reason=reason.encode())
        )
        if not head:
            answer += connection.send(h11.Data(data=body))
        await self.request.sendall(answer + connection.send(h11.EndOfMessage()))


def render(snapshot: Snapshot, state: State) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(_Collector(snapshot, state))
    return generate_latest(registry)


class _Collector:
    def __init__(self, snapshot: Snapshot, state: State) -> None:
        self._snapshot = snapshot
        self._state = state

    def collect(self) -> Iterator[Metric]:
        snapshot, state = self._snapshot, self._state
        for name, (metric, what) in _COUNTERS.items():
            yield CounterMetricFamily(_PREFIX + metric, what, value=snapshot.counters[name])
        refused = CounterMetricFamily(
            _PREFIX + "refused", "Connections that were closed unserved.", labels=["option"]
        )
        for option, value in snapshot.refused.items():
            refused.add_metric([option], value)
        yield refused
        timed_out = CounterMetricFamily(
            _PREFIX + "timed_out", "Requests that a time-out has cut.", labels=["option"]
        )
        for option, value in snapshot.timed_out.items():
            timed_out.add_metric([option], value)
        yield timed_out
        yield GaugeMetricFamily(
            _PREFIX + "requests_active", "Requests in progress.", value=snapshot.active
        )
        counts = [sum(snapshot.buckets[: number + 1]) for number in range(len(snapshot.buckets))]
        limits = [*map(str, BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            _PREFIX + "request_seconds",
            "How long requests took that have ended.",
            buckets=list(zip(limits, counts, strict=True)),
            sum_value=snapshot.seconds,
        )
        yield GaugeMetricFamily(_PREFIX + "workers", "Processes that serve.", value=state.workers)
        yield CounterMetricFamily(
            _PREFIX + "worker_restarts", "Workers that were replaced.", value=state.restarts
        )

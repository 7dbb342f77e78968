"""Metrics for Prometheus, and health checks: a small HTTP server of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Generator, Iterator
from http import HTTPStatus
from time import monotonic
from typing import Any

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ..logs.limits import LogLimit
from ..logs.printable import printable
from ..requests.handlers import BaseRequestHandler
from ..servers.stream import TCPServer
from ..sockets.stream import StreamSocket
from .binds import OpenSocket
from .snapshots import BUCKETS, Snapshot, State
from .turns import Turns

logger = logging.getLogger("aiosocketserver.deploy")

_PREFIX = "aiosocketserver_"

# Received at once; a scrape's request has a few hundred bytes.
_BLOCK = 16 * 1024

# Connections that may wait for their client at once. Then the oldest is closed.
MOST_IDLE = 64

# Answers on one connection.
_MOST_REQUESTS = 100

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

    It shares a loop with the service, or with what looks after the workers, and must hold
    up neither, whoever asks and how: see `Turns`. Of the connections that wait for their
    client the oldest gives way to the newest, so that a probe always gets through.
    """

    request_timeout = 10.0
    # Answers have left by then; nothing is waited for at the end of a service.
    linger_timeout = 0.0
    shutdown_timeout = 1.0
    # Above those that wait for their client, for those that wait for their answer.
    max_connections = 4 * MOST_IDLE

    def __init__(
        self,
        opened: OpenSocket,
        snapshot: Callable[[], Awaitable[Snapshot]],
        state: Callable[[], State],
    ) -> None:
        super().__init__(None, _Handler, bind_and_activate=False, sock=opened.sock)
        self._snapshot = snapshot
        self._state = state
        self.turns = Turns()
        self._rendering = asyncio.Lock()
        self._next_text: asyncio.Task[bytes] | None = None
        self._texts: set[asyncio.Task[bytes]] = set()
        # Every handler's task: since when its request is waited for, None while that is answered.
        self._handlers: dict[asyncio.Task[Any], float | None] = {}
        self._closed_to_make_room = LogLimit()

    async def __aexit__(self, *error: Any) -> None:
        for task in (*self._handlers, *self._texts):
            task.cancel()
        await super().__aexit__(*error)

    async def text(self) -> bytes:
        """For Prometheus: what has been counted up to now or later, once for all who ask meanwhile.

        Rendering takes a millisecond or two, a hundred times as long as a probe.
        """
        if self._next_text is None:
            self._next_text = asyncio.create_task(self._render())
            self._texts.add(self._next_text)
            self._next_text.add_done_callback(self._texts.discard)
        return await asyncio.shield(self._next_text)

    async def _render(self) -> bytes:
        # A task that starts eagerly would be past the next lines before it is `_next_text`.
        await asyncio.sleep(0)
        async with self._rendering:
            # Who asks from now on wants what is counted later.
            self._next_text = None
            snapshot = await self._snapshot()
            async with self.turns.take():
                return render(snapshot, self._state())

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and body for another path than that of the metrics."""
        match path:
            case "/healthz":
                return 200, b"alive\n"
            case "/readyz" if self._state().ready:
                return 200, b"ready\n"
            case "/readyz":
                return 503, b"not ready\n"
            case _:
                return 404, b"there are /metrics, /healthz and /readyz\n"

    @contextlib.contextmanager
    def waiting_for_client(self, since: float) -> Generator[None]:
        """While a handler does so, another connection may take its place, the oldest first."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers[task] = since
        idle = {task: begun for task, begun in self._handlers.items() if begun is not None}
        if len(idle) > MOST_IDLE:
            oldest = min(idle, key=idle.__getitem__)
            self._handlers[oldest] = None
            oldest.cancel()
            number = self._closed_to_make_room.count()
            if number:
                logger.warning(
                    "%d connections to the port of the metrics were closed, because they said "
                    "nothing or read nothing and newer ones came",
                    number,
                )
        try:
            yield
        finally:
            self._handlers[task] = None

    @contextlib.contextmanager
    def handling(self) -> Generator[None]:
        """While a handler runs: it is cancelled at the end of the service."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers[task] = None
        try:
            yield
        finally:
            del self._handlers[task]

    def handle_timed_out(self, request: Any, client_address: Any, option: str) -> None:
        """A connection that Prometheus keeps open between two scrapes is no news."""
        logger.debug("%r left the port of the metrics idle: %s", client_address, option)


class _Handler(BaseRequestHandler):
    request: StreamSocket
    server: MetricsServer

    async def handle(self) -> None:
        connection = h11.Connection(h11.SERVER)
        with self.server.handling():
            for number in range(_MOST_REQUESTS):
                # One more in the backlog at the end of the service.
                if self.server.draining:
                    return
                answer = await self._answer_next(connection, last=number == _MOST_REQUESTS - 1)
                with self.server.waiting_for_client(monotonic()):
                    await self.request.sendall(answer)
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return
                connection.start_next_cycle()

    async def _answer_next(self, connection: h11.Connection, *, last: bool) -> bytes:
        """The answer to the next request, nothing when the client has closed."""
        begun = monotonic()
        data: bytes | None = None
        while True:
            if data is not None or not connection.trailing_data[0]:
                with self.server.waiting_for_client(begun):
                    data = await self.request.recv(_BLOCK)
            async with self.server.turns.take():
                try:
                    if data is not None:
                        connection.receive_data(data)
                    data = b""
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        continue
                    if not isinstance(event, h11.Request):
                        return b""
                    # The end of the request, unless it has a body: nobody waits for that.
                    connection.next_event()
                except h11.RemoteProtocolError as error:
                    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                        return b""
                    body = f"{printable(str(error))}\n".encode()
                    return _response(connection, error.error_status_hint, body)
                last = last or connection.their_state is not h11.DONE
                head = event.method == b"HEAD"
                if event.method not in (b"GET", b"HEAD"):
                    return _response(connection, 405, b"only GET and HEAD\n", last=last)
                path = event.target.decode("latin-1").partition("?")[0]
                if path != "/metrics":
                    status, body = self.server.answer(path)
                    return _response(connection, status, body, head=head, last=last)
            text = await self.server.text()
            async with self.server.turns.take():
                return _response(connection, 200, text, CONTENT_TYPE_LATEST, head=head, last=last)


def _response(
    connection: h11.Connection,
    status: int,
    body: bytes,
    content_type: str = "text/plain",
    *,
    head: bool = False,
    last: bool = True,
) -> bytes:
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    if last:
        headers.append(("Connection", "close"))
    reason = HTTPStatus(status).phrase
    answer = connection.send(
        h11.Response(status_code=status, headers=headers, reason=reason.encode())
    )
    if not head:
        answer += connection.send(h11.Data(data=body))
    return answer + connection.send(h11.EndOfMessage())


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

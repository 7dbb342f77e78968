"""One server that is being served on a loop: readiness, ticks, pauses, and the end."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import select
import socket
import socketserver
import threading
from collections.abc import Callable
from contextvars import copy_context
from types import FrameType
from typing import Any

from aiosocketserver.cpython import set_running_loop
from aiosocketserver.requests.back_off import BackOff, is_shortage
from aiosocketserver.requests.starts import Starts
from aiosocketserver.servers.accept_loop import AcceptLoop, Taken
from aiosocketserver.servers.base import cannot_watch
from aiosocketserver.servers.listener import is_listening
from aiosocketserver.servers.taking import MSG_DONTWAIT, Taking, accept_at_once, while_nonblocking

from .coroutines import CoroutineRequests
from .greenlets import GreenletRequests, wants_greenlets
from .host import Host
from .loops import with_running_loop, without_running_loop
from .signals import SignalHandlers

logger = logging.getLogger("aiosocketserver")

# Requests taken for one wake-up before others on the loop have their turn.
BATCH = 32


class Serving:
    """A server on a loop, from the first request to the last.

    It calls `_handle_request_noblock` whenever the server's descriptor is readable, and
    `service_actions` after it and every `poll_interval` seconds, as socketserver's own
    loop does. All methods but `stop_threadsafe`, `room_made` and `try_starts` run on the
    loop's thread.
    """

    def __init__(
        self,
        server: Host,
        loop: asyncio.AbstractEventLoop,
        poll_interval: float | None,
        *,
        owns_loop: bool,
    ) -> None:
        self.server = server
        self.loop = loop
        # Whether nothing else runs there than what comes with the server.
        self.owns_loop = owns_loop
        self.thread = threading.get_ident()
        # What a hook or a plain handler raised that socketserver lets through.
        self.error: BaseException | None = None
        self.coroutines: CoroutineRequests | None = None
        self.greenlets: GreenletRequests | None = None
        self.signals = SignalHandlers(self._on_signal_error, _is_hook)
        self._poll_interval = poll_interval
        self._ended: asyncio.Future[None] = loop.create_future()
        # One for all that is called, as the calling thread would have been.
        self._context = copy_context()
        self._descriptor = -1
        self._poll = select.poll()
        self._taking: Taking | None = None
        # None before the first request may be taken.
        self._accepting: AcceptLoop | None = None
        # Whether room is waited for.
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._back_off = BackOff(loop, self._resume)
        self._starts = Starts(server._aiosocketserver.threads)
        # The tasks of requests whose thread or child cannot be started for now.
        self._waiting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until `stop_threadsafe`, or until an error: see `error`."""
        try:
            self._start()
            await self._ended
        finally:
            self._end()
            await self._end_waiting()
            for requests in (self.coroutines, self.greenlets):
                if requests is not None:
                    await requests.end()

    def _start(self) -> None:
        if self.server._BaseServer__shutdown_request:
            self._end()
            return
        self._descriptor = self.server.fileno()
        if self._descriptor < 0:
            raise ValueError(
                f"the socket of this {type(self.server).__qualname__} is closed: make a new "
                "server to serve again"
            )
        self._poll.register(self._descriptor, select.POLLIN)
        self._accepting = AcceptLoop(
            self.loop,
            self._descriptor,
            self._back_off,
            watch=self._watch,
            on_readable=self._on_readable,
            take=self._take,
            may_take=self._has_room,
            on_pause=lambda: None,
        )
        if wants_greenlets(self.server):
            self.greenlets = GreenletRequests(
                self.server, self.loop, on_fatal=self.fail, on_room=self.room_made
            )
        # Discard an error left over from an earlier handle_request().
        self.server._aiosocketserver.take_accept_error()
        try:
            self._resume()
        except NotImplementedError as error:
            raise cannot_watch(self.loop) from error
        hook = getattr(self.server.service_actions, "__func__", None)
        if hook is not socketserver.BaseServer.service_actions:
            self._schedule_tick()

    # The end

    def stop_threadsafe(self) -> None:
        """End the serving. Thread-safe."""
        try:
            if threading.get_ident() == self.thread:
                # At once: server_close() is about to close the descriptor, and its
                # number may soon be another one's.
                self._end()
            # Also wake the loop: in a signal handler it may be blocked in select().
            self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            # The loop is closed: it has ended.
            pass

    def fail(self, error: BaseException) -> None:
        """End the serving with `error`."""
        if self.error is None:
            self.error = error
        self._end()

    def _on_signal_error(self, error: BaseException) -> None:
        # At any point of what else runs in this thread, so that the loop has to do it.
        if self.error is None:
            self.error = error
        try:
            self.loop.call_soon_threadsafe(self._end)
        except RuntimeError:
            # The loop is closed: it has ended.
            pass

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The exception handler of a loop that runs nothing else."""
        if "handle" in context:
            # From a callback. A signal may have struck `_call` in it, just before that would have
            # been put back. Anything else may come from a finaliser, in any thread.
            set_running_loop(loop)
        error = context.get("exception")
        # From a signal handler that the program has set since `_hold_signals`: uvloop calls
        # it in that callback of its own.
        is_signals = "Loop._read_from_self" in context.get("message", "")
        if error is not None and "handle" in context and (is_signals or self.coroutines is None):
            # Without coroutines any callback is the program's, a signal handler as a rule.
            self.fail(error)
        else:
            loop.default_exception_handler(context)

    def _end(self) -> None:
        if self._accepting is not None:
            self._accepting.stop()
        if self._timer is not None:
            self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(None)

    # Requests

    def _on_readable(self) -> None:
        self._call(self._take_batch)

    def _take_batch(self) -> None:
        assert self._accepting is not None
        self._accepting.take_batch(BATCH)

    def _take(self) -> Taken:
        """Have socketserver take one request, with all its hooks."""
        server = self.server
        server._handle_request_noblock()
        server.service_actions()
        if self._is_over():
            return Taken.NO_MORE
        error = server._aiosocketserver.take_accept_error()
        if error is None:
            self._back_off.accepted()
        elif isinstance(error, OSError) and error.errno == errno.EBADF:
            # Somebody has closed the socket, so nobody will come any more.
            return Taken.NO_MORE
        elif self._lasts(error):
            self._back_off.log(error)
            return Taken.NOT_NOW
        # A get_request() that blocks must not be called when nobody waits.
        return Taken.ONE if self._poll.poll(0) else Taken.ALL

    def get_request(self) -> tuple[Any, Any]:
        """The server's, which does not wait when another process was faster."""
        sock = getattr(self.server, "socket", None)
        if not isinstance(sock, socket.socket) or sock.fileno() != self._descriptor:
            return self._get_request_from_descriptor()
        # As a rule it is socketserver's own, of which it is known what it calls. A `Taking`
        # would add a twentieth to what a short connection costs.
        if type(sock) is socket.socket and sock.gettimeout() is None:
            hook = getattr(self.server.get_request, "__func__", None)
            if hook is socketserver.TCPServer.get_request:
                return accept_at_once(sock, self.server.get_request)
            if hook is socketserver.UDPServer.get_request:
                size: int = getattr(self.server, "max_packet_size")  # noqa: B009 - a UDPServer's
                data, client_address = sock.recvfrom(size, MSG_DONTWAIT)
                return (data, sock), client_address
        taking = self._taking
        if taking is None or taking.sock is not sock:
            taking = self._taking = Taking(sock, self._may_wait)
        taking.begin()
        try:
            return self.server.get_request()
        finally:
            taking.end()

    def _get_request_from_descriptor(self) -> tuple[Any, Any]:
        """The server's, which takes from another object than its `socket`, as any BaseServer may.

        Of that the descriptor alone is known.
        """
        descriptor = self._descriptor
        known = self.server.fileno() == descriptor and _takes_requests(descriptor)
        if not known or self._may_wait():
            return self.server.get_request()
        return while_nonblocking(descriptor, self.server.get_request)

    def _may_wait(self) -> bool:
        """Whether a get_request() that waits for a second client holds up nobody else."""
        alone = self.owns_loop and self.coroutines is None and self.greenlets is None
        return alone and not self._is_over()

    def _is_over(self) -> bool:
        stopped = self._ended.done() or self.server._BaseServer__shutdown_request
        return stopped or self.error is not None

    def _lasts(self, error: OSError | MemoryError) -> bool:
        """Whether get_request() would fail again at once."""
        if is_shortage(error):
            return True
        sock: Any = getattr(self.server, "socket", None)
        return (
            isinstance(sock, socket.socket)
            and sock.type == socket.SOCK_STREAM
            and not is_listening(sock)
        )

    def _call(self, function: Callable[[], object]) -> None:
        """Call what belongs to the legacy program. Whatever it raises ends the serving."""
        # As `without_running_loop`: in a callback of the loop there is no task to leave.
        set_running_loop(None)
        try:
            self._context.run(function)
        except BaseException as error:  # noqa: BLE001 - serve_forever() raises it
            self.fail(error)
        finally:
            set_running_loop(self.loop)

    def _schedule_tick(self) -> None:
        if self._poll_interval is not None:
            self._timer = self.loop.call_later(max(0, self._poll_interval), self._tick)

    def _tick(self) -> None:
        self._call(self.server.service_actions)
        if not self._ended.done():
            self._schedule_tick()

    # Pauses

    def _has_room(self) -> bool:
        """Whether one more request may be taken; if not, none is until `room_made`."""
        # First: a room_made() in another thread meanwhile must not be lost.
        self._paused = True
        room = not self._waiting and self.server._aiosocketserver_has_room()
        if room and (self.coroutines is None or self.coroutines.has_room()):
            self._paused = False
            return True
        return False

    def room_made(self) -> None:
        """A request has ended. Thread-safe."""
        if self._paused:
            try:
                self.loop.call_soon_threadsafe(self._resume)
            except RuntimeError:
                # The loop is closed: it has ended.
                pass

    def _resume(self) -> None:
        if self._accepting is not None and not self._ended.done():
            self._accepting.resume()

    def _watch(self, descriptor: int, on_readable: Callable[[], object]) -> None:
        # uvloop makes the descriptor non-blocking, for every process that shares it.
        try:
            while_nonblocking(descriptor, self.loop.add_reader, descriptor, on_readable)
        except BlockingIOError:
            # Another process has just done the same, and puts the mode back.
            self.loop.add_reader(descriptor, on_readable)

    # Threads and children that cannot be started for now

    def start_later(
        self, start: Callable[[], object], request: Any, client_address: Any, what: str
    ) -> None:
        """Have the request wait until `start` does not fail any more; nobody else is taken."""

        def start_as_legacy() -> None:
            with without_running_loop():
                start()

        message = f"accepting is paused, and goes on as soon as {what} can be started"
        with with_running_loop(self.loop):
            task = self.loop.create_task(self._starts.until_started(start_as_legacy, message))
        self._waiting.add(task)
        self._starts.waiting += 1
        task.add_done_callback(functools.partial(self._waited, request, client_address))

    def _waited(self, request: Any, client_address: Any, task: asyncio.Task[None]) -> None:
        self._waiting.discard(task)
        self._starts.waiting -= 1
        if task.cancelled():
            logger.warning(
                "the request of %r is closed: serve_forever() ends, and nothing could be started "
                "for it",
                client_address,
            )
            self._call(functools.partial(self.server.shutdown_request, request))
        elif (error := task.exception()) is not None:
            self._call(functools.partial(self._fail_request, error, request, client_address))
        self._resume()

    def _fail_request(self, error: BaseException, request: Any, client_address: Any) -> None:
        try:
            raise error
        except Exception:  # noqa: BLE001 - handle_error() reports it
            self.server.handle_error(request, client_address)
        finally:
            self.server.shutdown_request(request)

    def try_starts(self) -> None:
        """Something has become free. Thread-safe."""
        self._starts.try_threadsafe(self.loop)

    async def _end_waiting(self) -> None:
        for task in self._waiting:
            task.cancel()
        if self._waiting:
            await asyncio.wait(self._waiting)

    # Coroutine handlers

    def serve_coroutine(self, request: Any, client_address: Any) -> None:
        """Have a coroutine handler serve the request in a task of this loop."""
        if self.coroutines is None:
            self._hold_signals()
            self.coroutines = CoroutineRequests(
                self.server, self.loop, on_fatal=self.fail, on_room=self.room_made
            )
        with with_running_loop(self.loop):
            self.coroutines.start(request, client_address)

    def serve_in_greenlet(self, request: Any, client_address: Any) -> bool:
        """Have a legacy handler serve the request in a greenlet of this thread.

        False if the server has asked for none when the serving began.
        """
        if self.greenlets is None:
            return False
        self._hold_signals()
        with with_running_loop(self.loop):
            self.greenlets.start(request, client_address)
        return True

    def _hold_signals(self) -> None:
        """From now on, have what signal handlers raise end the serving, not a request."""
        if self.owns_loop:
            self.signals.install()


def _takes_requests(descriptor: int) -> bool:
    """Whether it is a socket that listens, or one of datagrams, which come one at a time."""
    duplicate = os.dup(descriptor)
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        # A pipe, for example, of which a get_request() may read more than once.
        os.close(duplicate)
        return False
    with sock:
        return sock.type == socket.SOCK_DGRAM or is_listening(sock)


def _is_hook(frame: FrameType | None, error: BaseException) -> bool:
    """Whether a signal has struck a hook, through which its handler's error ends the serving.

    That of process_request() would be caught there as the request's own, and an OSError
    in get_request() as that of a connection that has gone.
    """
    called: Any = None
    caught: tuple[type[BaseException], ...] = ()
    while frame is not None:
        code = frame.f_code
        if code in _OURS:
            return False
        if code is Serving._call.__code__:
            return called is not None and not isinstance(error, caught)
        if code.co_name == "process_request":
            caught = (Exception,)
        elif code.co_name == "get_request" and not caught:
            caught = (OSError,)
        called, frame = code, frame.f_back
    return False


# What must not be left half done.
_OURS = {
    function.__code__
    for function in (
        Serving.fail,
        Serving._end,
        AcceptLoop.start,
        AcceptLoop.stop,
        Serving.room_made,
        Serving.start_later,
        Serving.serve_coroutine,
        Serving.serve_in_greenlet,
    )
}

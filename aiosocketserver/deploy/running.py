"""`run`: from a target and settings to a service that serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import platform
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Unpack, cast

from ..compiled import CORE
from ..options.keywords import ServerOptions
from ..requests.partials import without_arguments
from ..servers.socket_server import SocketServer
from . import log_output
from .binds import (
    Bind,
    OpenSocket,
    SocketOptions,
    forget_systemd_sockets,
    open_for_workers,
    open_sockets,
)
from .ending import Ending, run_to_end
from .errors import StartError
from .exits import ExitSignals, exit_code
from .notify import Notifier
from .observing import observe
from .process import Limits
from .reloading import ReloadSignal, tell_too_late
from .service import Service, loop_factory, make_servers
from .settings import Settings, chosen_loop, default_binds
from .snapshots import Snapshot, State
from .standard_streams import open_standard_streams
from .targets import load_target
from .worker import run_worker
from .workers import Supervisor

if TYPE_CHECKING:
    import socket

logger = logging.getLogger("aiosocketserver.deploy")


def run(
    target: Any,
    *binds: str,
    workers: int = 1,
    loop: str = "auto",
    certfile: str | None = None,
    keyfile: str | None = None,
    client_ca_file: str | None = None,
    metrics: str | None = None,
    access_log: str = "off",
    worker_timeout: float = 30.0,
    start_timeout: float = 60.0,
    drain_delay: float = 0.0,
    **options: Unpack[ServerOptions],
) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code. In the main thread.

    - target: a handler class; a server class or factory, which is called as
      `target(server_address, **options)`; `"module:Name"` of one of these; or a server
      that is made already, or a list of them, which serve in this process as they are
    - binds: where to listen, as "tcp://0.0.0.0:9999": see `Bind`; without any, on
      127.0.0.1 port 9999

    The rest are `Settings`, and options of the servers. Raises StartError, before
    anything is served, when one of them is wrong.
    """
    made = _made_already(target)
    if made and (binds or workers > 1 or certfile or options):
        raise StartError(
            "a server that is made already serves where and as it is, in this process: binds, "
            "workers, a certfile and options are for a handler class or what makes servers"
        )
    settings = Settings(
        binds=() if made else binds or default_binds(),
        workers=workers,
        loop=loop,
        certfile=certfile,
        keyfile=keyfile,
        client_ca_file=client_ca_file,
        metrics=metrics,
        access_log=access_log,
        worker_timeout=worker_timeout,
        start_timeout=start_timeout,
        drain_delay=drain_delay,
        options=dict(options),
    )
    ending = Ending()
    try:
        return serve(target, settings, ending)
    finally:
        ending.release()


def serve(target: Any, settings: Settings, ending: Ending) -> int:
    """`run` with settings that have been read. The process ends with it, unless it is released."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("run() is for the main thread, which gets signals; see serving()")
    open_standard_streams()
    with log_output.never_waiting(), contextlib.ExitStack() as stack:
        service = _Deployment(target, settings, stack, ending)
        return service.serve_here() if settings.workers == 1 else service.serve_in_workers()


def _made_already(target: Any) -> list[SocketServer]:
    """The servers that a target is, if it is some."""
    given = cast("list[object]", target) if isinstance(target, list) else [target]
    servers = [each for each in given if isinstance(each, SocketServer)]
    return servers if len(servers) == len(given) else []


class _Deployment:
    """What `serve` has opened, and the two ways to serve on it."""

    def __init__(
        self, target: Any, settings: Settings, stack: contextlib.ExitStack, ending: Ending
    ) -> None:
        self._ending = ending
        self._target = target
        self._settings = settings
        self._loop = chosen_loop(settings.loop)
        self._servers = _made_already(target)
        self._opened = open_for_workers(
            settings.parsed_binds(),
            SocketOptions.of(settings.options),
            settings.workers,
        )
        for sockets in self._opened:
            for each in sockets:
                stack.callback(each.close)
        # Not for the programs that handlers start.
        forget_systemd_sockets()
        self._metrics: OpenSocket | None = None
        if settings.metrics is not None:
            self._metrics = _open_metrics(settings.metrics)
            stack.callback(self._metrics.close)
        self._notifier = Notifier()
        stack.callback(self._notifier.close)
        self._reload_signal = ReloadSignal()
        # Not with the stack: until the process has ended, SIGHUP would end it.
        ending.on_release(self._reload_signal.close)

    def _load(self) -> Any:
        target = load_target(self._target) if isinstance(self._target, str) else self._target
        # It may have handlers of its own now.
        log_output.take_over()
        return target

    def _tell_start(self) -> None:
        target = without_arguments(self._target)
        name = target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))
        opened = self._opened[0]
        if self._servers:
            name = ", ".join(type(server).__qualname__ for server in self._servers)
            opened = [
                OpenSocket(s.socket, Bind("", "fd", s._stages.secures)) for s in self._servers
            ]
        places = ", ".join(str(each) for each in opened)
        workers = self._settings.workers
        number = f"{workers} workers" if workers > 1 else "1 process"
        status = f"serving {name} on {places}"
        self._notifier.ready(status)
        version = platform.python_version()
        logger.info("%s (%s, %s, %s, Python %s)", status, number, self._loop, CORE, version)

    def serve_here(self) -> int:
        """Serve in this process."""
        settings = self._settings
        servers = self._servers or make_servers(
            self._load(), self._opened[0], settings, settings.options
        )
        durations = observe(servers, settings)

        async def serve() -> None:
            service = Service(servers, settings.drain_delay)
            serves = False

            def state() -> State:
                return State(serves and not service.stopping.is_set(), int(serves), 0)

            def on_ready() -> None:
                nonlocal serves
                serves = True
                self._tell_start()
                self._reload_signal.attach(reload)

            def on_stopping() -> None:
                # A handler may have ended it, and no signal.
                self._ending.begin(service.seconds_to_drain())
                self._notifier.stopping()

            def reload() -> None:
                if service.stopping.is_set():
                    tell_too_late()
                    return
                self._notifier.reloading()
                problem = "" if service.reload_tls() else "; the last reload failed"
                self._notifier.ready(f"serving{problem}")

            async def snapshot() -> Snapshot:
                return Snapshot.of(servers, durations)

            async with self._with_metrics(snapshot, state):
                ExitSignals(self._ending, service.seconds_to_drain, service.stopping.set)
                try:
                    end = await service.run(on_ready, on_stopping)
                    self._ending.code = exit_code(end)
                finally:
                    self._reload_signal.detach()

        run_to_end(loop_factory(self._loop), serve, self._ending)
        return self._ending.code

    def serve_in_workers(self) -> int:
        """Serve in several processes."""
        settings = self._settings

        def run_one(slot: int, sock: socket.socket) -> int:
            options = dict(settings.options)
            if "max_connections" in options:
                options["max_connections"] = _share(options["max_connections"], slot, settings)
            return run_worker(self._load, self._opened[slot], settings, options, sock)

        async def supervise() -> None:
            limits = Limits(silence=settings.worker_timeout, start=settings.start_timeout)
            supervisor = Supervisor(
                run_one, settings.workers, limits, settings.drain_delay, self._notifier
            )

            def state() -> State:
                return State(supervisor.ready, supervisor.serving, supervisor.restarts)

            async def snapshot() -> Snapshot:
                total = await supervisor.snapshot()
                total.counters["log_records_dropped"] += log_output.dropped()
                return total

            async with self._with_metrics(snapshot, state):
                self._ending.on_cut = supervisor.kill_all
                ExitSignals(
                    self._ending,
                    supervisor.seconds_to_drain,
                    supervisor.stopping.set,
                    supervisor.kill_all,
                )
                self._reload_signal.attach(supervisor.reload)
                try:
                    self._ending.code = await supervisor.run(self._tell_start)
                finally:
                    self._reload_signal.detach()

        # Few events and many forks: the simplest loop there is.
        run_to_end(asyncio.SelectorEventLoop, supervise, self._ending)
        return self._ending.code

    @contextlib.asynccontextmanager
    async def _with_metrics(
        self, snapshot: Callable[[], Awaitable[Snapshot]], state: Callable[[], State]
    ) -> AsyncGenerator[None]:
        if self._metrics is None:
            yield
            return
        from .metrics import MetricsServer

        async with MetricsServer(self._metrics, snapshot, state) as server:
            await server.start_serving()
            place = str(self._metrics).removeprefix("tcp://")
            logger.info("metrics and health on http://%s", place)
            yield


def _share(limit: int | None, slot: int, settings: Settings) -> int | None:
    """What one worker has of a limit that is for all together."""
    if limit is None:
        return None
    share, rest = divmod(limit, settings.workers)
    return share + (slot < rest)


def _open_metrics(place: str) -> OpenSocket:
    if importlib.util.find_spec("prometheus_client") is None or not importlib.util.find_spec("h11"):
        raise StartError("metrics need more: pip install 'aiosocketserver[metrics]'")
    bind = Bind.parse(f"tcp://{place}")
    # Of a name with several addresses the first one is enough.
    first, *others = open_sockets([bind], SocketOptions())
    for each in others:
        each.close()
    return first

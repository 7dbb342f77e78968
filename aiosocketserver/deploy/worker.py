"""A worker: what runs in a process that the parent of a service has forked."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..requests.children import flush_standard_streams
from ..servers.socket_server import SocketServer
from . import log_output
from .binds import OpenSocket
from .channel import Channel
from .ending import REST_OF_WORKER, Ending, join_threads, run_to_end
from .errors import StartError, report, report_crash
from .exits import CANNOT_START, ExitSignals, exit_code
from .observing import observe
from .service import Service, loop_factory, make_servers
from .settings import BEAT, Settings, chosen_loop
from .snapshots import Snapshot

logger = logging.getLogger("aiosocketserver.deploy")

_STANDARD_ERROR = 2


def run_worker(
    load: Callable[[], Any],
    opened: Sequence[OpenSocket],
    settings: Settings,
    options: Mapping[str, Any],
    sock: socket.socket,
) -> int:
    """Serve until the parent says to stop, by SIGTERM, or is gone; the exit code.

    - load: imports the target, so that a new worker has new code
    - sock: leads to the parent
    """
    # Ctrl-C reaches the whole group, and the parent sees to it; SIGHUP is for the parent, too.
    # Not SIG_IGN: programs that handlers start would inherit it.
    signal.signal(signal.SIGINT, _Interrupt().leave_to_parent)
    signal.signal(signal.SIGHUP, _leave_to_parent)
    # The parent asks so where it hangs, before it kills. Python's own handlers do not run then.
    faulthandler.register(signal.SIGQUIT, file=_STANDARD_ERROR)
    try:
        servers = make_servers(load(), opened, settings, options)
        return _serve(servers, settings, sock)
    except StartError as error:
        report(error)
        return CANNOT_START
    except BaseException as error:  # noqa: BLE001 - it ends this process only, and is reported
        report_crash(error)
        return 1
    finally:
        log_output.flush()
        flush_standard_streams()


def _leave_to_parent(number: int, frame: object) -> None:
    """Do nothing for a signal that the parent gets too."""


class _Interrupt:
    """Ctrl-C, which children that handlers fork handle as those of a single process do."""

    # They are told by it: see `children.start_child`.
    of_loop = True

    def leave_to_parent(self, number: int, frame: object) -> None:
        """Do nothing."""


def _serve(servers: Sequence[SocketServer], settings: Settings, sock: socket.socket) -> int:
    durations = observe(servers, settings)

    ending = Ending(REST_OF_WORKER)

    async def serve() -> None:
        service = Service(servers)
        phase = "starting"

        def enter(new: str) -> None:
            nonlocal phase
            phase = new
            tell()

        def tell(**more: Any) -> None:
            # All of it each time: a message is lost when the one before was not taken.
            snapshot = Snapshot.of(servers, durations)
            state = {"phase": phase, "shutdown_timeout": service.shutdown_timeout}
            channel.send({"snapshot": snapshot.to_json(), **state, **more})

        def answer(message: dict[str, Any]) -> None:
            tell(answer=message["question"])

        def on_stopping() -> None:
            # The parent may be gone, and has sent no signal.
            ending.begin(service.seconds_to_drain())
            enter("draining")

        channel = Channel(sock, on_message=answer, on_end=service.stopping.set)
        beating = asyncio.create_task(_beat(tell))
        try:
            ExitSignals(
                ending, service.seconds_to_drain, service.stopping.set, numbers=[signal.SIGTERM]
            )
            end = await service.run(lambda: enter("serving"), on_stopping)
            ending.code = exit_code(end)
        finally:
            beating.cancel()
            tell()
            channel.close()

    run_to_end(loop_factory(chosen_loop(settings.loop)), serve, ending)
    join_threads()
    return ending.code


async def _beat(tell: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(BEAT)
        tell()

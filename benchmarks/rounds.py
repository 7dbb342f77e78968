"""Rounds: every server in turn does the same, so that what slows the machine slows all."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from .peers import Peer
from .results import PeerResult, WorkResult
from .server_process import Cpus, Failed, ServerProcess
from .works import Work

# Seconds of load before the first round: the interpreter specialises what runs often.
WARM_UP = 0.1


def measure(
    work: Work,
    peers: list[Peer],
    *,
    rounds: int,
    seconds: float,
    cpus: Cpus,
    load: str,
    on_step: Callable[[str], None],
) -> WorkResult:
    """Have all `peers` do `work`; `on_step` is told who is next, once for each round."""
    result = WorkResult(work.title, work.role, work.size)
    if work.held:
        # One server at a time: ten thousand connections each are more than a machine has.
        for peer in peers:
            result.peers[peer.name] = _measure_holding(
                peer, work, rounds, seconds, cpus, load, on_step
            )
        return result
    with ExitStack() as stack:
        servers: list[ServerProcess] = []
        for peer in peers:
            peer_result = result.peers[peer.name] = PeerResult()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                server = ServerProcess(peer, work, cpus, load, folder)
                stack.callback(server.close)
                server.measure(min(WARM_UP, seconds))
            except Failed as error:
                peer_result.failure = str(error)
            else:
                servers.append(server)
        order = random.Random(work.name)
        for _ in range(rounds):
            order.shuffle(servers)
            for server in servers:
                name = server.peer.name
                on_step(name)
                if result.peers[name].failure:
                    continue
                try:
                    result.peers[name].samples.append(server.measure(seconds))
                except Failed as error:
                    result.peers[name] = PeerResult(failure=str(error))
    return result


def _measure_holding(
    peer: Peer,
    work: Work,
    rounds: int,
    seconds: float,
    cpus: Cpus,
    load: str,
    on_step: Callable[[str], None],
) -> PeerResult:
    result = PeerResult()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            server = ServerProcess(peer, work, cpus, load, folder)
            stack.callback(server.close)
            server.measure(min(WARM_UP, seconds))
            with server.holding() as memory:
                result.held = memory
                for _ in range(rounds):
                    on_step(peer.name)
                    result.samples.append(server.measure(seconds))
        except Failed as error:
            return PeerResult(failure=str(error))
    return result

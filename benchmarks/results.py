"""What a run measured, as JSON and back."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .server_process import Sample


@dataclass
class PeerResult:
    """One peer at one work: a sample for each round, or why there is none."""

    samples: list[Sample] = field(default_factory=list[Sample])
    # Bytes for each idle connection, where they were held.
    held: int | None = None
    failure: str = ""

    def median(self, value: Callable[[Sample], float]) -> float:
        """The median of one figure over the rounds."""
        return statistics.median(map(value, self.samples))

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.median(lambda sample: sample.rate)

    @property
    def spread(self) -> float:
        """Half of the range of the rates, as a share of their median."""
        rates = [sample.rate for sample in self.samples]
        return (max(rates) - min(rates)) / 2 / self.rate

    @property
    def cpu_time(self) -> float:
        """Seconds of the server's CPU for a request."""
        return self.median(lambda sample: sample.cpu_time)

    @property
    def p50(self) -> float:
        """Seconds that half of the requests took at most."""
        return self.median(lambda sample: sample.p50)

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 requests took at most."""
        return self.median(lambda sample: sample.p99)

    @property
    def lost(self) -> int:
        """Datagrams lost in all rounds."""
        return sum(sample.lost for sample in self.samples)

    @property
    def memory(self) -> float:
        """Bytes of the process after a round."""
        return self.median(lambda sample: sample.memory)


@dataclass
class WorkResult:
    """All peers at one work. `size` is that of a message or transfer, in bytes."""

    title: str
    role: str
    size: int
    peers: dict[str, PeerResult] = field(default_factory=dict[str, PeerResult])

    def measured(self) -> dict[str, PeerResult]:
        """The peers that did it."""
        return {name: result for name, result in self.peers.items() if result.samples}

    def ratio(self, here: str, there: str, value: Callable[[Sample], float]) -> float | None:
        """How many times one's figure is the other's: the median over the rounds.

        The two are compared round by round, because they were neighbours there.
        """
        ours, theirs = self.peers.get(here), self.peers.get(there)
        if ours is None or theirs is None or not (ours.samples and theirs.samples):
            return None
        pairs = zip(ours.samples, theirs.samples, strict=False)
        return statistics.median(value(a) / value(b) for a, b in pairs)


@dataclass
class Results:
    """One run."""

    date: str
    machine: dict[str, str]
    rounds: int
    seconds: float
    works: dict[str, WorkResult] = field(default_factory=dict[str, WorkResult])
    # Who could not be measured at all, and what is missing.
    lacking: dict[str, str] = field(default_factory=dict[str, str])

    def write(self, path: Path) -> None:
        """Write all samples as JSON."""
        path.write_text(json.dumps(asdict(self), separators=(",", ":")) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` has written."""
        told: dict[str, Any] = json.loads(path.read_text())
        told["works"] = {name: _work(work) for name, work in told["works"].items()}
        return cls(**told)


def _work(told: dict[str, Any]) -> WorkResult:
    peers = {name: _peer(**peer) for name, peer in told.pop("peers").items()}
    return WorkResult(**told, peers=peers)


def _peer(samples: list[dict[str, Any]], **rest: Any) -> PeerResult:
    return PeerResult([Sample(**sample) for sample in samples], **rest)

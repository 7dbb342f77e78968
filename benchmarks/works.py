"""What the servers are made to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .peers import Peer

GIBIBYTE = 1 << 30

# With a thread for each connection, more than these tell about the kernel only.
MOST_THREADS = 1000


@dataclass(frozen=True)
class Work:
    """One load: `role` is the server's (servers/job.py), `how` the client's (load/main.c)."""

    name: str
    title: str
    role: str
    how: str
    connections: int = 10
    # Bytes of a message, or of a transfer.
    size: int = 1024
    # Messages that are sent together.
    depth: int = 1
    unix: bool = False
    # Connections that are held meanwhile, for their memory.
    held: int = 0

    @property
    def encrypted(self) -> bool:
        """Whether it needs a load that speaks TLS."""
        return self.how.endswith("-tls")

    def fits(self, peer: Peer) -> bool:
        """Whether the peer can do this."""
        if self.unix and not peer.unix:
            return False
        if peer.threads and max(self.connections, self.held) > MOST_THREADS:
            return False
        return self.role in peer.roles


def _size(size: int) -> str:
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"


def _echo(size: int, connections: int) -> Work:
    return Work(
        f"echo-{_size(size).replace(' ', '').removesuffix('iB').removesuffix('B').lower()}"
        f"-{connections}",
        f"Echo of {_size(size)} in lock-step, {connections:,} connections",
        role="echo",
        how="echo",
        connections=connections,
        size=size,
    )


def all_works() -> list[Work]:
    """Every load, in the order of the report."""
    works = [
        _echo(size, connections)
        for size in (100, 1024, 64 * 1024)
        for connections in (1, 10, 200, 1000)
    ]
    return [
        *works,
        # With 10 and 1,000 from above: how the cost grows.
        _echo(1024, 100),
        _echo(1024, 10_000),
        Work(
            "lines",
            "Pipelined lines of 64 B, 16 together, 10 connections",
            role="lines",
            how="echo",
            size=64,
            depth=16,
        ),
        Work(
            "connects",
            "Connect, one request of 1 KiB, close; 10 clients",
            role="connects",
            how="connects",
        ),
        Work(
            "tls",
            "TLS echo of 1 KiB in lock-step, 10 connections",
            role="tls",
            how="echo-tls",
        ),
        Work(
            "handshakes",
            "TLS handshake, one request of 1 KiB, close; 10 clients",
            role="tls-connects",
            how="connects-tls",
        ),
        Work(
            "idle",
            "10,000 idle connections, and echo of 1 KiB on 10 others",
            role="echo",
            how="echo",
            held=10_000,
        ),
        Work(
            "datagrams",
            "UDP echo of 512 B, 64 clients",
            role="datagrams",
            how="datagrams",
            connections=64,
            size=512,
        ),
        Work(
            "unix",
            "Echo of 1 KiB over Unix sockets, 10 connections",
            role="echo",
            how="echo",
            unix=True,
        ),
        *(
            Work(role, title, role=role, how=how, connections=1, size=GIBIBYTE)
            for role, how, title in (
                ("upload", "upload", "1 GiB to the server"),
                ("download", "download", "1 GiB from the server"),
                ("sendfile", "download", "1 GiB from files of the server, by sendfile"),
            )
        ),
    ]


def quick(works: list[Work]) -> list[Work]:
    """What a minute or two are enough for."""
    short = {work.name: work for work in works}
    return [
        short["echo-1k-10"],
        short["echo-1k-1000"],
        short["lines"],
        short["connects"],
        short["tls"],
        replace(short["idle"], held=1000, title="1,000 idle connections, and echo on 10 others"),
        short["datagrams"],
        short["unix"],
        replace(short["download"], size=GIBIBYTE // 16, title="64 MiB from the server"),
    ]

"""Who is measured: echo servers, each as its own documentation writes it."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, field

from .programs import Programs

LOOPS = ("asyncio", "uvloop")
AIOFASTNET_LOOPS = ("asyncio+aiofastnet", "uvloop+aiofastnet")

ECHO = frozenset({"echo", "lines", "connects"})
TLS = frozenset({"tls", "tls-connects"})
TRANSFERS = frozenset({"upload", "download"})


@dataclass(frozen=True)
class Peer:
    """A server that can be started in some roles (see servers/job.py)."""

    name: str
    command: tuple[str, ...]
    roles: frozenset[str]
    loop: str = ""
    # What has to be installed.
    requires: tuple[str, ...] = ()
    # The first Python version that it does not run on.
    before: tuple[int, int] | None = None
    # Whether it can listen on a Unix socket.
    unix: bool = False
    # Whether it has a thread for each connection.
    threads: bool = False
    # The roles that it fills in another way, as those that know lines only.
    instead: dict[str, str] = field(default_factory=dict[str, str])

    def lacks(self) -> str | None:
        """What it needs and is not there; None when it can run."""
        if self.before is not None and sys.version_info >= self.before:
            return f"a Python before {self.before[0]}.{self.before[1]}"
        return next((name for name in self.requires if not _is_installed(name)), None)

    def start_command(self, role: str, path: str, size: int) -> list[str]:
        """How it is started in a role."""
        role = self.instead.get(role, role)
        if self.command[0].startswith("/"):
            return [*self.command, role, *([path] if path else [])]
        module, *arguments = self.command
        command = [sys.executable, "-m", f"benchmarks.servers.{module}", *arguments, role]
        if self.loop:
            command += ["--loop", self.loop]
        if path:
            command += ["--path", path]
        return [*command, "--size", str(size)]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _on_loop(
    name: str,
    module: str,
    loop: str,
    roles: frozenset[str],
    *requires: str,
    unix: bool = False,
    instead: dict[str, str] | None = None,
) -> Peer:
    packages = [part for part in loop.split("+") if part != "asyncio"]
    return Peer(
        f"{name}, {loop}",
        (module,),
        roles,
        loop=loop,
        requires=(*requires, *packages),
        unix=unix,
        instead=instead or {},
    )


def all_peers(programs: Programs) -> list[Peer]:
    """Every server there is, whether it can run here or not."""
    stream = ECHO | TRANSFERS
    peers: list[Peer] = []
    for loop in LOOPS:
        peers += [
            _on_loop(
                "aiosocketserver",
                "coroutines",
                loop,
                stream | TLS | {"sendfile", "datagrams"},
                unix=True,
            ),
            _on_loop("aiosocketserver files", "coroutines", loop, ECHO, instead={"echo": "lines"}),
        ]
    peers.append(
        Peer(
            "aiosocketserver serve, uvloop",
            ("service",),
            ECHO,
            loop="uvloop",
            requires=("uvloop", "click"),
        )
    )
    for loop in (*LOOPS, *AIOFASTNET_LOOPS):
        peers += [
            _on_loop(
                "asyncio streams",
                "streams",
                loop,
                # uvloop itself has no sendfile().
                stream | TLS if loop == "uvloop" else stream | TLS | {"sendfile"},
                unix=True,
            ),
            _on_loop(
                "asyncio protocol",
                "protocols",
                loop,
                # A protocol that writes as fast as it may loses its connection under
                # aiofastnet 1.2 on Python 3.13, now and then.
                (stream | TLS | {"datagrams"}) - ({"download"} if "+" in loop else set()),
                unix=True,
            ),
        ]
    for loop in LOOPS:
        peers += [
            _on_loop("asyncio streams by line", "streams", loop, ECHO, instead={"echo": "lines"}),
            _on_loop(
                "anyio",
                "libraries.anyio_streams",
                loop,
                frozenset({"echo", "connects", "datagrams"}) | TRANSFERS,
                "anyio",
            ),
            _on_loop(
                "tornado",
                "libraries.tornado_servers",
                loop,
                ECHO | TLS | {"download"},
                "tornado",
            ),
            _on_loop(
                "EasyNetwork",
                "libraries.easynetwork_servers",
                loop,
                ECHO | {"datagrams"},
                "easynetwork",
            ),
        ]
    peers += [
        Peer(
            "trio",
            ("libraries.trio_streams",),
            frozenset({"echo", "connects", "datagrams"}) | TLS | TRANSFERS,
            requires=("trio",),
        ),
        Peer(
            "curio",
            ("libraries.curio_sockets",),
            stream | {"datagrams"},
            requires=("curio",),
            before=(3, 12),
        ),
        Peer("gevent", ("libraries.gevent_servers",), stream | {"datagrams"}, requires=("gevent",)),
        Peer(
            "gevent, patched socketserver",
            ("libraries.gevent_threads", "socketserver"),
            # Its sockets do not block, which socket.sendfile() asks for.
            stream | {"datagrams"},
            requires=("gevent",),
        ),
        Peer(
            "socketserver",
            ("legacy", "socketserver"),
            stream | {"sendfile", "datagrams"},
            unix=True,
            threads=True,
        ),
    ]
    for loop in LOOPS:
        requires = ("uvloop",) if loop == "uvloop" else ()
        peers += [
            Peer(
                f"aiosocketserver threads, {loop}",
                ("legacy", "threads"),
                stream | TLS | {"sendfile"},
                loop=loop,
                requires=requires,
                threads=True,
            ),
            Peer(
                f"aiosocketserver greenlets, {loop}",
                ("legacy", "greenlets"),
                stream | TLS | {"sendfile"},
                loop=loop,
                requires=(*requires, "greenlet"),
            ),
            Peer(
                f"aiosocketserver.compat threads, {loop}",
                ("legacy", "compat"),
                stream | {"sendfile"},
                loop=loop,
                requires=requires,
                unix=True,
                threads=True,
            ),
        ]
    peers.append(
        Peer("C, epoll", (programs.epoll,), frozenset({"echo", "connects", "datagrams"}), unix=True)
    )
    if programs.go is not None:
        peers.append(
            Peer(
                "Go, one core",
                (programs.go,),
                ECHO | TLS | {"datagrams", "upload"},
                unix=True,
            )
        )
    return peers

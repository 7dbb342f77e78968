"""Ways to make a class of a mix-in and a server, and where the handlers of each of them run.

As a program, it says so of every one: `python -m tests.mixed_classes socketserver`, or compat, or
halves, which are mix-ins of compat over servers of the standard library.
"""

import json
import os
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiosocketserver import compat

BOUND = 20.0

MIX_INS = ("ThreadingMixIn", "ForkingMixIn")
SERVERS = ("TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer")

# The mix-in and the server that a class is made of come from here.
MODULES: dict[str, Any] = {
    "socketserver": socketserver,
    "compat": compat,
    "halves": SimpleNamespace(
        **{name: getattr(compat, name) for name in MIX_INS},
        **{name: getattr(socketserver, name) for name in SERVERS},
    ),
}


def made(*bases: Any, **attributes: Any) -> Any:
    return type("Made", bases, attributes)


class Own:
    """A program's own mix-in, which passes every call on."""

    timeout: float | None = 5

    def process_request(self, request: Any, client_address: Any) -> None:
        super().process_request(request, client_address)  # type: ignore[misc]

    def server_close(self) -> None:
        super().server_close()  # type: ignore[misc]


class Between:
    """Another, which says how a mix-in is to work."""

    daemon_threads = True
    max_children = 3


# Each makes one class of a mix-in `m` and a server `s`.
SHAPES: dict[str, Callable[[Any, Any], Any]] = {
    "m, s": lambda m, s: made(m, s),
    "s, m": lambda m, s: made(s, m),
    "m's subclass, s": lambda m, s: made(made(m, timeout=1), s),
    "s, m's subclass": lambda m, s: made(s, made(m, timeout=1)),
    "m, s's subclass": lambda m, s: made(m, made(s, timeout=2)),
    "s's subclass, m": lambda m, s: made(made(s), m),
    "own, m, s": lambda m, s: made(Own, m, s),
    "m, own, s": lambda m, s: made(m, Own, s),
    "m, s, own": lambda m, s: made(m, s, Between),
    "s, own, m": lambda m, s: made(s, Between, m),
    "own and m, s": lambda m, s: made(made(Own, m), s),
    "s, own and m": lambda m, s: made(s, made(Between, m)),
    "m and s, own": lambda m, s: made(made(m, s), Between),
    "own, s and m": lambda m, s: made(Own, made(s, m), block_on_close=False),
    "s, m, s": lambda m, s: made(made(s), m, made(s, block_on_close=False)),
    "m, s, s": lambda m, s: made(m, made(s), made(s, timeout=3)),
}


def classes(module: Any) -> dict[str, Any]:
    """All of them that can be made with the names of `module`, each with a name of its own."""
    found = {
        f"{shape} of {mix_in} and {server}": make(getattr(module, mix_in), getattr(module, server))
        for shape, make in SHAPES.items()
        for mix_in in MIX_INS
        for server in SERVERS
    }
    for first, second in (MIX_INS, MIX_INS[::-1]):
        one, other, server = (getattr(module, name) for name in (first, second, "TCPServer"))
        found[f"{first}, {second}, TCPServer"] = made(one, other, server)
        found[f"{first}, TCPServer, {second}"] = made(one, server, other)
        found[f"TCPServer, {first}, {second}"] = made(server, one, other)
    return found


class Place(socketserver.BaseRequestHandler):
    """Answers where it runs."""

    parent = os.getpid()

    def handle(self) -> None:
        if os.getpid() != self.parent:
            place = b"child"
        elif threading.get_ident() == self.server.serves_in:  # type: ignore[attr-defined]
            place = b"serving thread"
        else:
            place = b"another thread"
        if isinstance(self.request, tuple):
            self.request[1].sendto(place, self.client_address)
        else:
            self.request.recv(1)
            self.request.sendall(place)


def place_of(server_class: Any, folder: str, way: str) -> str:
    """Where the class has its handlers run, with `serve_forever` or `handle_request`."""
    unix = server_class.address_family == socket.AF_UNIX
    address: Any = os.path.join(folder, "server") if unix else ("127.0.0.1", 0)
    with (
        server_class(address, Place) as server,
        socket.socket(server.address_family, server.socket_type) as client,
    ):
        if unix:
            client.bind(os.path.join(folder, "client"))
        client.settimeout(BOUND)
        serve = {"serve_forever": lambda: server.serve_forever(0.01)}.get(
            way, server.handle_request
        )

        def run() -> None:
            server.serves_in = threading.get_ident()
            serve()

        thread = threading.Thread(target=run)
        thread.start()
        client.connect(server.server_address)
        client.send(b"?")
        place = client.recv(100).decode()
        if way == "serve_forever":
            server.shutdown()
        thread.join()
    for path in Path(folder).iterdir():
        path.unlink()
    return place


def main() -> None:
    places = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, server_class in classes(MODULES[sys.argv[1]]).items():
            for way in ("serve_forever", "handle_request"):
                places[f"{name}, {way}"] = place_of(server_class, folder, way)
    json.dump(places, sys.stdout)


if __name__ == "__main__":
    main()

"""Ports that a test names before the program that is to listen there has started."""

import contextlib
import socket
from collections.abc import Generator


@contextlib.contextmanager
def reserved_port() -> Generator[int]:
    """A TCP port of 127.0.0.1 that nobody gets in the body by asking the kernel for any.

    A listener with SO_REUSEADDR that names the port gets it: the socket that holds it does
    not listen (socket(7)).
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        yield port

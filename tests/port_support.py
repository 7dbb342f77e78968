"""Ports that a test names before the program that is to listen there has started."""

import random
import socket


def free_port() -> int:
    """A port that is free on UDP and on TCP, and none that the kernel gives to others (ip(7)).

    Tests that run at the same time get such ports all the time, for whoever binds to port 0
    and for every client.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")

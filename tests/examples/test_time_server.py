"""time_server.py: how many clients each of its models serves at once."""

import contextlib
import socket
from pathlib import Path

import pytest

from tests.example_support import TIMEOUT, running


@pytest.mark.parametrize("model", ["one", "pool", "threads", "tasks"])
def test_how_many_it_serves_at_once(model: str, tmp_path: Path) -> None:
    at_once = {"one": 1, "pool": 2, "threads": 5, "tasks": 5}[model]
    arguments = ("--model", model, "--threads", "2", "tcp://127.0.0.1:0")
    with (
        running("time_server", *arguments, folder=tmp_path) as server,
        contextlib.ExitStack() as stack,
    ):
        address = ("127.0.0.1", server.ports[0])
        clients = [
            stack.enter_context(socket.create_connection(address, timeout=TIMEOUT))
            for _ in range(5)
        ]
        for each in clients:
            each.sendall(b"hello")
        served: list[socket.socket] = []
        while len(served) < at_once:
            each = next(each for each in clients if each not in served)
            assert each.recv(100).endswith(b" | hello")
            served.append(each)
        for each in clients:
            if each not in served:
                each.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    each.recv(100)
                each.settimeout(TIMEOUT)
        # Those who wait are served when others have left.
        for each in clients:
            if each not in served:
                served.pop(0).close()
                assert each.recv(100).endswith(b" | hello")
                served.append(each)

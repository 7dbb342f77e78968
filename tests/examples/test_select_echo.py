"""select_echo.py, and a client that sends and never reads."""

import re
import socket
from pathlib import Path

import pytest

from tests.deploy_support import ask
from tests.example_support import LOOPS, TIMEOUT, running

pytestmark = pytest.mark.parametrize("loop", LOOPS)

BIND = "tcp://127.0.0.1:0"


@pytest.mark.parametrize("handler", ["queued", "blocking"])
def test_all_comes_back(loop: str, handler: str, tmp_path: Path) -> None:
    with running("select_echo", handler, BIND, loop=loop, folder=tmp_path) as echo:
        assert ask(echo.ports[0], b"x" * 100_000) == b"x" * 100_000


def test_queues_are_bounded_and_nobody_waits_for_a_client_that_does_not_read(
    loop: str, tmp_path: Path
) -> None:
    with (
        running("select_echo", "queued", BIND, loop=loop, folder=tmp_path) as echo,
        socket.create_connection(("127.0.0.1", echo.ports[0]), timeout=TIMEOUT) as silent,
    ):
        silent.settimeout(0.5)
        with pytest.raises(TimeoutError):
            # More than the kernel's buffers take.
            silent.sendall(bytes(256 * 2**20))
        status = Path(f"/proc/{echo.process.pid}/status").read_text()
        (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
        assert int(resident) < 100_000
        assert ask(echo.ports[0], b"y") == b"y"

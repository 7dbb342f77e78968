"""The same handlers behind `aiosocketserver serve`, with its defaults, on a socket opened here."""

import os
import socket
import sys

from benchmarks.servers.job import BACKLOG, job_from_command_line

HANDLERS = {"echo": "Echo", "lines": "Lines", "connects": "Connects"}

job = job_from_command_line()
listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
listening.set_inheritable(True)
job.announce(listening.getsockname()[1])
os.execv(
    sys.executable,
    [
        *(sys.executable, "-m", "aiosocketserver", "serve"),
        f"benchmarks.servers.handlers:{HANDLERS[job.role]}",
        *("--bind", f"fd://{listening.fileno()}", "--log-level", "error"),
    ],
)

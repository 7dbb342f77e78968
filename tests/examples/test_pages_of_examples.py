"""The commands on the pages of docs/examples, as they stand there."""

import shlex
from pathlib import Path

from tests.deploy_support import ask
from tests.example_support import running
from tests.page_support import Page

TIME_SERVER = Page("docs/examples/time_server.md")


@TIME_SERVER.executes()
def test_time_server(tmp_path: Path) -> None:
    [command] = TIME_SERVER.blocks("sh")
    python, program, *arguments = shlex.split(command)
    assert (python, program) == ("python", "examples/time_server.py")
    with running("time_server", *arguments, "tcp://127.0.0.1:0", folder=tmp_path) as server:
        assert ask(server.ports[0], b"hello").endswith(b"] hello")

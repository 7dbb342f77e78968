"""The access log: a line for each request that has ended."""

import json
import logging
import re
from pathlib import Path

import pytest

from aiosocketserver.deploy import access_log
from aiosocketserver.requests.statistics import RequestEnd
from tests.deploy_support import ask, serving_application

BIND = ("--bind", "tcp://127.0.0.1:0")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_command_writes_it_to_standard_output(workers: str, tmp_path: Path) -> None:
    for form in ("text", "json"):
        arguments = ("application:Echo", *BIND, "--access-log", form, "--workers", workers)
        with serving_application(tmp_path, *arguments) as command:
            ask(command.ports[0], b"hello\n")
            assert command.end() == 0
            assert command.process.stdout is not None
            (line,) = command.process.stdout.read().splitlines()
        if form == "text":
            assert re.fullmatch(
                r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 127\.0\.0\.1:\d+ #1 finished "
                r"\d+\.\d{6} s 6 in 6 out",
                line,
            )
        else:
            entry = json.loads(line)
            assert sorted(entry) == sorted(
                ("time", "client", "request", "outcome", "seconds", "received", "sent")
            )
            assert entry["outcome"] == "finished"
            assert (entry["received"], entry["sent"]) == (6, 6)


def test_every_kind_of_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver.access")
    addresses = [("127.0.0.1", 1), ("::1", 2, 0, 0), "", "/run/client", b"\0name", None]
    for address in addresses:
        end = RequestEnd(address, 7, 0.25, "write_timeout", None, None)
        access_log.log_text(end)
        access_log.log_json(end)
    texts, objects = caplog.messages[::2], [json.loads(line) for line in caplog.messages[1::2]]
    assert [text.split()[1] for text in texts] == [
        "127.0.0.1:1",
        "[::1]:2",
        "-",
        "/run/client",
        "@name",
        "-",
    ]
    assert texts[0].endswith("#7 write_timeout 0.250000 s")
    assert [entry["client"] for entry in objects] == [
        "127.0.0.1:1",
        "[::1]:2",
        "",
        "/run/client",
        "@name",
        "",
    ]

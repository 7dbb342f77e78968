"""The settings of a service: flags, variables and a file, one list of options for all of them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver.deploy import StartError
from aiosocketserver.deploy.settings import Settings, server_options
from tests.deploy_support import ROOT, refused, serving_application

OPTIONS = server_options()


def help_text(columns: int = 80) -> str:
    return subprocess.run(
        [sys.executable, "-m", "aiosocketserver", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"},
    ).stdout


def test_every_option_of_the_servers_is_a_setting() -> None:
    unused = {"address_family", "timeout", "ssl_context"}
    assert set(OPTIONS) == set(aiosocketserver.ServerOptions.__annotations__) - unused


def test_help_describes_every_option_on_80_columns() -> None:
    text = help_text()
    assert max(map(len, text.splitlines())) <= 80
    for option in OPTIONS.values():
        assert f"--{option.name.replace('_', '-')}" in text
        assert len(option.description) > 10, option.name
        # Without blanks, for lines are broken anywhere; the first letter is a capital one.
        assert "".join(option.description.split())[1:] in "".join(text.split()), option.name
    for name in ("bind", "config", "workers", "loop", "metrics", "access-log", "certfile"):
        assert f"--{name}" in text


def test_the_command_line_comes_first_then_variables_then_the_file(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        'bind = ["tcp://127.0.0.1:0"]\nmax-connections = 11\nidle_timeout = 12.5\n'
        'read_timeout = 13\ntcp_keep_alive = "none"\nreuse_threads = false\nloop = "asyncio"\n'
        'proxy_trusted = ["10.0.0.0/8"]\n'
    )
    (tmp_path / "shows.py").write_text(
        "import aiosocketserver\n"
        "class Server(aiosocketserver.ThreadingTCPServer):\n"
        "    def __init__(self, address, **options):\n"
        "        print(sorted(options.items()), flush=True)\n"
        "        raise ValueError('enough')\n"
    )
    environment = {
        "AIOSOCKETSERVER_MAX_CONNECTIONS": "21",
        "AIOSOCKETSERVER_IDLE_TIMEOUT": "22",
        "AIOSOCKETSERVER_UNIX_MODE": "660",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "aiosocketserver", "serve", "shows:Server"),
            *("--config", "settings.toml", "--max-connections", "31", "--daemon-threads"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 2
    assert eval(done.stdout) == [
        ("bind_and_activate", False),
        ("daemon_threads", True),
        ("idle_timeout", 22.0),
        ("max_connections", 31),
        ("proxy_trusted", ("10.0.0.0/8",)),
        ("read_timeout", 13),
        ("reuse_threads", False),
        ("tcp_keep_alive", None),
        ("unix_mode", 0o660),
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["application:Echo", "--max-connections", "-3"], "it must be a whole number above 0"),
        (["application:Echo", "--max-connections", "x"], "'x' is not a number"),
        (["application:Echo", "--idle-timeout", "0"], "it must be a number of seconds above 0"),
        (["application:Echo", "--workers", "0"], "workers must be a number above 0"),
        (["application:Echo", "--workers", "two"], "it must be a number above 0, or auto"),
        (
            ["application:Echo", "--loop", "trio"],
            "'trio' is not one of 'auto', 'asyncio', 'uvloop'",
        ),
        (["application:Echo", "--proxy-protocol", "on"], "'on' is not one of"),
        (["application:Echo", "--unix-mode", "999"], "--unix-mode"),
        (["application:Echo", "--no-such-option"], "--no-such-option"),
        (["application:Echo", "--worker-timeout", "0"], "worker_timeout must be 2 seconds or more"),
        (["application:Echo", "--start-timeout", "0"], "start_timeout must be a number of seconds"),
        ([], "Missing argument 'TARGET'"),
        (["application:Echo", "--bind", "127.0.0.1:80"], "it has no scheme; a bind is tcp://"),
        (["application:Echo", "--bind", "tls://127.0.0.1:0"], "is encrypted, and needs a certfile"),
        (["application:Echo", "--certfile", "x.pem"], "no bind is encrypted"),
        (
            ["application:Echo", "--max-connections", "1", "--workers", "2"],
            "1 are too few for 2 workers",
        ),
        (["application:Echo", "--max-children", "3"], "max_children is given, and no server here"),
        (["application:Echo", "--config", "none.toml"], "the file of settings cannot be read"),
        (["application:Echo", "--metrics", "nowhere"], "it has no port"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    arguments: list[str], problem: str, tmp_path: Path
) -> None:
    if "--bind" not in arguments and arguments:
        arguments = [*arguments, "--bind", "tcp://127.0.0.1:0"]
    lines = refused(tmp_path, *arguments)
    assert len(lines) == 1, lines
    assert lines[0].startswith("aiosocketserver: ")
    assert problem in lines[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_conections = 3", "there is no setting 'max_conections': did you mean 'max_connec"),
        ("[limits]\nmax = 3", "there is no setting 'limits'"),
        (
            'bind = "tcp://127.0.0.1:1"',
            """'bind' is a list: write bind = ["tcp://127.0.0.1:1"]""",
        ),
        ('bind = "unix:///tmp/ä😀"', """write bind = ["unix:///tmp/ä😀"]"""),
        ("proxy-trusted = 7", "'proxy_trusted' must be a list of texts, and is 7"),
        ("bind = [9999]", "'bind' must be a list of texts, and is [9999]"),
        ('bind = [["a"]]', "'bind' must be a list of texts"),
        ("bind = {a = 1}", "'bind' is a table, and settings have none"),
        ("max_connections = ", "is no TOML"),
        ("max_connections = -1", "it must be a whole number above 0"),
        ('target = "x:y"', "there is no setting 'target'"),
    ],
)
def test_a_file_that_makes_no_sense(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(text)
    (line,) = refused(
        tmp_path,
        *("application:Echo", "--bind", "tcp://127.0.0.1:0", "--config", "settings.toml"),
    )
    assert problem in line


def test_nothing_is_left_bound(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    lines = refused(tmp_path, "application:not_a_server", "--bind", f"unix://{path}")
    assert "it is neither a handler class nor a server class" in lines[0]
    assert not path.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"loop": "trio"},
        {"access_log": "xml"},
        {"options": {"max_conns": 3}},
        {"options": {"max_connections": "3"}},
        {"binds": ["x"]},
    ],
)
def test_settings_are_checked_for_callers_of_run_too(wrong: dict[str, Any]) -> None:
    with pytest.raises(StartError):
        Settings(**wrong)


def test_auto_workers_are_as_many_as_processors(tmp_path: Path) -> None:
    arguments = ("application:Echo", "--bind", "tcp://127.0.0.1:0", "--workers", "auto")
    with serving_application(tmp_path, *arguments) as command:
        line = command.lines[-1]
        number = len(os.sched_getaffinity(0))
        expected = f"{number} workers" if number > 1 else "1 process"
        assert re.search(rf"\({expected}, ", line)
        assert command.end() == 0

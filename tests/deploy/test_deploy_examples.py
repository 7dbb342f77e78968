"""The files in examples/deploy: what they say works."""

import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aiosocketserver.deploy.settings import Settings, read_file, server_options
from tests.deploy_support import ROOT, ask, metrics, serving_command

DEPLOY = ROOT / "examples" / "deploy"


def commands() -> dict[str, list[str]]:
    """The arguments of each `aiosocketserver serve` in these files."""
    found: dict[str, list[str]] = {}
    service = (DEPLOY / "echo.service").read_text()
    (line,) = re.findall(r"^ExecStart=\S+/aiosocketserver serve (.*)$", service, re.MULTILINE)
    found["echo.service"] = shlex.split(line)
    pod = (DEPLOY / "kubernetes.yaml").read_text()
    (block,) = re.findall(r"args:\n((?: +(?:- .*|#.*)\n)+)", pod)
    arguments = re.findall(r"^ +- (.*)$", block, re.MULTILINE)
    assert arguments[:2] == ["aiosocketserver", "serve"]
    found["kubernetes.yaml"] = arguments[2:]
    proxy = (DEPLOY / "haproxy.cfg").read_text().replace("\\\n#", "")
    for number, text in enumerate(
        re.findall(r"^# +aiosocketserver serve (.*)$", proxy, re.MULTILINE)
    ):
        found[f"haproxy.cfg {number}"] = shlex.split(text)
    return found


@pytest.mark.parametrize("name", commands())
def test_commands_in_these_files_start(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    # Their ports may be somebody else's.
    arguments = [re.sub(r":9\d{3}\b", ":0", argument) for argument in commands()[name]]
    if "--bind" not in " ".join(arguments):
        arguments += ["--bind", "tcp://127.0.0.1:0"]
    with serving_command(tmp_path, *arguments) as command:
        command.until(r"\] serving examples/echo.py:Echo")
        assert command.end() == 0


def test_the_settings_file_is_served(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    settings = tmp_path / "examples" / "deploy" / "echo.toml"
    settings.write_text(re.sub(r":9\d{3}\b", ":0", settings.read_text()))
    arguments = ("examples/echo.py:Echo", "--config", "examples/deploy/echo.toml")
    with serving_command(tmp_path, *arguments) as command:
        port = int(command.until(r"metrics and health on http://[^ ]*:(\d+)")[1])
        command.until(r"\] serving ")
        assert ask(command.ports[0], b"hello\n") == b"hello\n"
        assert metrics(port)["requests_total"] == 1
        assert (tmp_path / "echo.sock").is_socket()
        assert command.end() == 0


def test_its_settings_are_all_shown_with_values_that_are_right() -> None:
    known = {*Settings.__dataclass_fields__, "bind", "log_level"}
    given = read_file(str(DEPLOY / "echo.toml"), known | set(server_options()), ["bind"])
    assert given["workers"] == 2


def test_haproxy_takes_its_file(require_program: Callable[[str], str], tmp_path: Path) -> None:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin") or require_program(
        "haproxy"
    )
    done = subprocess.run(
        [program, "-c", "-f", str(DEPLOY / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_units_name_each_other() -> None:
    service, sockets = (DEPLOY / name for name in ("echo.service", "echo.socket"))
    assert "Requires=echo.socket" in service.read_text()
    addresses = re.findall(r"^ListenStream=(.*)$", sockets.read_text(), re.MULTILINE)
    assert len(addresses) == 3
    for address in addresses[:2]:
        host, _, port = address.rpartition(":")
        assert port == "9999"
        family = socket.AF_INET6 if "[" in host else socket.AF_INET
        socket.inet_pton(family, host.strip("[]"))

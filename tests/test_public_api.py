"""The public names, and what importing them loads."""

import re
import subprocess
import sys
import tomllib

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.page_support import ROOT

PUBLIC = {
    "BaseRequestHandler",
    "BaseServer",
    "CertificateFiles",
    "DatagramRequestHandler",
    "DatagramSocket",
    "ForkingMixIn",
    "ForkingTCPServer",
    "GreenletMixIn",
    "GreenletSocket",
    "GreenletTCPServer",
    "GreenletUnixStreamServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "LimitExceeded",
    "ProxyHeader",
    "RequestInProgress",
    "ServerOptions",
    "ShutdownReport",
    "SocketReader",
    "SocketWriter",
    "StartError",
    "Statistics",
    "StreamRequestHandler",
    "StreamSocket",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "TimedOut",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "proxy_header",
    "request_id",
    "run",
    "serving",
    "UnixDatagramServer",
    "UnixStreamServer",
}


# Every name that a package says it has, asked for in each of the ways that there are.
ASK_FOR_EVERY_NAME = """
import importlib, inspect, sys
for package in ["aiosocketserver", "aiosocketserver.compat", "aiosocketserver.deploy"]:
    module = importlib.import_module(package)
    exec(f"from {package} import *", taken := {})
    for name in module.__all__:
        exec(f"from {package} import {name}", {})
        assert hasattr(module, name), name
        assert name in taken, name
        assert name in dir(module), name
        inspect.getdoc(getattr(module, name))
    assert not hasattr(module, "nothing")
    assert not any(name in sys.modules for name in others), others
print(sys.modules["aiosocketserver"].__version__)
"""


def run(code: str, *flags: str) -> str:
    # In the checkout, which need not be installed.
    command = [sys.executable, *flags, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names() -> None:
    assert sorted(aiosocketserver.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(aiosocketserver, name).__doc__


def test_dir_has_what_is_loaded_later_too() -> None:
    assert {*PUBLIC, "__version__", "__all__"} <= set(dir(aiosocketserver))
    assert len(dir(aiosocketserver)) == len(set(dir(aiosocketserver)))
    # Before anything is used.
    assert run("import aiosocketserver; print('run' in dir(aiosocketserver))") == "True"


def test_dir_of_compat_has_all_that_it_finds_in_socketserver() -> None:
    import socketserver

    assert set(dir(socketserver)) | {"install", "GreenletTCPServer"} <= set(dir(compat))
    assert all(hasattr(compat, name) for name in dir(compat))


@pytest.mark.parametrize("package", [aiosocketserver, compat])
def test_a_name_that_is_not_there_is_told_with_its_module(package: object) -> None:
    name = getattr(package, "__name__")  # noqa: B009
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        getattr(package, "nothing")  # noqa: B009


def test_every_name_is_there_where_nothing_else_is_installed() -> None:
    # -S: the standard library only.
    others = "others = ['greenlet', 'click', 'uvloop', 'h11', 'prometheus_client', 'libcst']\n"
    assert run(others + ASK_FOR_EVERY_NAME, "-S") == aiosocketserver.__version__


def test_a_greenlet_server_without_greenlet_names_the_extra() -> None:
    code = (
        "import aiosocketserver as a; from socketserver import BaseRequestHandler as H\n"
        "assert not isinstance(1, a.GreenletSocket)\n"
        "try: a.GreenletTCPServer(('127.0.0.1', 0), H)\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install aiosocketserver[greenlet]" in run(code, "-S")


def test_the_version_is_told_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", aiosocketserver.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    told = run("from aiosocketserver.deploy.command_line import cli; cli(['--version'])")
    core = "compiled core" if aiosocketserver.native else "core in Python"
    assert told.endswith(f" {aiosocketserver.__version__} ({core})")


def test_every_name_of_socketserver_is_here() -> None:
    import socketserver

    assert set(socketserver.__all__) <= PUBLIC


def test_import_loads_no_part_that_the_core_does_not_need() -> None:
    # asyncio imports ssl itself, and does without it where Python was built so.
    code = (
        "import sys; sys.modules['ssl'] = sys.modules['_ssl'] = None; import aiosocketserver; "
        "print([name for name in sys.modules "
        "if name.startswith(('aiosocketserver.deploy', 'aiosocketserver.compat', 'uvloop'))])"
    )
    assert run(code) == "[]"


def test_import_starts_no_thread_and_opens_no_descriptor() -> None:
    code = (
        "import os, threading, asyncio; before = os.listdir('/dev/fd'); import aiosocketserver; "
        "print(threading.active_count(), len(os.listdir('/dev/fd')) - len(before))"
    )
    assert run(code) == "1 0"

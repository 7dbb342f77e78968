"""The fixture `serving`, as a project's own tests use it, and the plugin that brings it."""

import importlib.metadata
import json
import os
import shutil
import socketserver
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import StreamRequestHandler
from tests.deploy_support import ROOT, ask

# Environments are made, with pip in them.
pytestmark = pytest.mark.timeout(300)


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Upper(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


def test_several_servers_serve_until_the_test_ends(serving: Callable[..., Any]) -> None:
    _, first = serving(Echo)
    _, second = serving(Upper, max_threads=2, shutdown_timeout=0.1)
    assert ask(first, b"a\n") == b"a\n"
    assert ask(second, b"a\n") == b"A\n"


# --- in a project whose pytest makes warnings errors ---

PROJECT = {
    "pytest.ini": "[pytest]\nfilterwarnings = error\n",
    "test_fixture.py": (
        "import socket\n"
        "from aiosocketserver import StreamRequestHandler\n"
        "class Echo(StreamRequestHandler):\n"
        "    async def handle(self):\n"
        "        async for line in self.rfile:\n"
        "            await self.wfile.write(line)\n"
        "def test_fixture(serving):\n"
        "    with socket.create_connection(serving(Echo)) as client:\n"
        "        client.sendall(b'hello')\n"
        "        client.shutdown(socket.SHUT_WR)\n"
        "        assert client.recv(100) == b'hello'\n"
    ),
    "test_module.py": (
        "import os, socketserver\n"
        "def test_module():\n"
        "    assert socketserver.__name__ == os.environ['SOCKETSERVER']\n"
    ),
    "run_pytest.py": (
        "import subprocess, sys\n"
        "sys.exit(subprocess.call([sys.executable, '-m', 'pytest', *sys.argv[1:]]))\n"
    ),
}


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the package, installed in one way or the other, pytest and no more."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=True, symlinks=True)
    found = folder / "bin" / "python"
    (site_packages,) = folder.glob("lib/*/site-packages")
    backend = importlib.metadata.distribution("hatchling").locate_file("")
    subprocess.run(
        [
            *(found, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--ignore-installed", "--disable-pip-version-check", ROOT),
        ],
        env={**without_pythonpath(), "PYTHONPATH": str(backend)},
        check=True,
    )
    if request.param == "editable":
        make_editable(site_packages)
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {".."}:
            link = site_packages / top
            if not link.exists():
                link.symlink_to(str(distribution.locate_file(top)))
    return found


def make_editable(site_packages: Path) -> None:
    """Leave of the package what `pip install --editable` does, for which hatchling needs more."""
    shutil.rmtree(site_packages / "aiosocketserver")
    (site_packages / "_editable_impl_aiosocketserver.pth").write_text(f"{ROOT}\n")
    (information,) = site_packages.glob("aiosocketserver-*.dist-info")
    record = (information / "RECORD").read_text().splitlines(keepends=True)
    kept = [line for line in record if not line.startswith("aiosocketserver/")]
    (information / "RECORD").write_text("_editable_impl_aiosocketserver.pth,,\n" + "".join(kept))
    (information / "direct_url.json").write_text(
        json.dumps({"dir_info": {"editable": True}, "url": ROOT.as_uri()})
    )


def without_pythonpath() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def run(python: Path, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and the output of a Python in the project."""
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    done = subprocess.run(
        [python, *arguments],
        cwd=folder,
        env={**without_pythonpath(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=40,
        check=False,
    )
    return done.returncode, done.stdout


COMPAT = ("-m", "aiosocketserver.compat")


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (("-m", "pytest"), "socketserver"),
        ((*COMPAT, "-m", "pytest"), "aiosocketserver.compat"),
        ((*COMPAT, "--subprocesses", "run_pytest.py"), "aiosocketserver.compat"),
        (("-W", "error", *COMPAT, "-m", "pytest"), "aiosocketserver.compat"),
    ],
    ids=["pytest", "compat", "subprocess", "warnings"],
)
def test_pytest_runs_and_has_the_fixture(
    command: tuple[str, ...], module: str, python: Path, tmp_path: Path
) -> None:
    code, output = run(python, tmp_path, *command, "-q", SOCKETSERVER=module)
    assert code == 0, output
    assert "2 passed" in output


@pytest.mark.parametrize("plugin", ["aiosocketserver", "aiosocketserver.pytest_plugin"])
def test_the_plugin_may_be_asked_for(plugin: str, python: Path, tmp_path: Path) -> None:
    code, output = run(
        *(python, tmp_path, *COMPAT, "-m", "pytest", "-q", "-p", plugin),
        SOCKETSERVER="aiosocketserver.compat",
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
    )
    assert code == 0, output
    assert "2 passed" in output


def test_the_plugin_may_be_switched_off(python: Path, tmp_path: Path) -> None:
    code, output = run(
        *(python, tmp_path, *COMPAT, "-m", "pytest", "-q", "-p", "no:aiosocketserver"),
        SOCKETSERVER="aiosocketserver.compat",
    )
    assert code == 1, output
    assert "fixture 'serving' not found" in output
    assert "1 passed, 1 error" in output


def test_a_program_that_has_imported_everything_may_run_pytest(
    python: Path, tmp_path: Path
) -> None:
    program = (
        "import aiosocketserver.deploy, aiosocketserver.pytest_plugin, pytest, sys\n"
        "sys.exit(pytest.main(['-q']))\n"
    )
    code, output = run(python, tmp_path, "-c", program, SOCKETSERVER="socketserver")
    assert code == 0, output

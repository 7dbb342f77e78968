"""docs/how-to/ and docs/index.md: what they show is done, and what they say happens."""

import asyncio
import configparser
import shlex
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.deploy_support import ask, get, serving_application
from tests.page_support import ROOT, Page
from tests.support import ask as ask_server
from tests.support import client_of
from tests.tls_support import Certificates, tls_client
from tests.walk_support import Walk, variables_with_it_installed

INDEX = Page("docs/index.md")
MIGRATING = Page("docs/how-to/migrating.md")
TESTING = Page("docs/how-to/testing.md")
TIMEOUTS = Page("docs/how-to/timeouts.md")
TLS = Page("docs/how-to/tls.md")
PROXY = Page("docs/how-to/proxy.md")
SYSTEMD = Page("docs/how-to/systemd.md")
KUBERNETES = Page("docs/how-to/kubernetes.md")


@pytest.fixture
def walk(tmp_path: Path) -> Callable[[Page], None]:
    """Somebody who follows a page where the package is installed."""
    variables = variables_with_it_installed(tmp_path)
    folder = tmp_path / "folder"
    folder.mkdir()

    def follow(page: Page) -> None:
        with Walk(page, folder, variables) as walk:
            walk.follow()

    return follow


@INDEX.executes()
def test_the_first_program_that_one_sees(walk: Callable[[Page], None]) -> None:
    walk(INDEX)


# Migrating


@MIGRATING.executes("The program as it is")
def test_a_program_runs_as_it_is(
    walk: Callable[[Page], None], require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    walk(MIGRATING)


@MIGRATING.executes("The whole program")
async def test_legacy_handlers_are_served_beside_the_others() -> None:
    names = MIGRATING.namespace("The whole program")
    main = asyncio.create_task(names["main"]())
    for server in (names["legacy"], names["migrated"]):
        assert await ask_server(server.server_address, b"one\ntwo\n") == b"one\ntwo\n"
    main.cancel()
    with pytest.raises(asyncio.CancelledError):
        await main


# Testing


@TESTING.executes()
def test_the_tests_pass(walk: Callable[[Page], None]) -> None:
    walk(TESTING)


# Time-outs


@TIMEOUTS.executes("A last word")
def test_a_last_word(walk: Callable[[Page], None], require_program: Callable[[str], str]) -> None:
    require_program("nc")
    walk(TIMEOUTS)


@TIMEOUTS.executes("Time for one step")
async def test_time_for_one_step() -> None:
    async with TIMEOUTS.namespace("Time for one step")["server"] as server:
        await server.start_serving()
        assert await ask_server(server.server_address, b"Ada\n") == b"name? hello, Ada\n"
        async with client_of(server.server_address) as client:
            assert await client.receive_all() == b"name? too slow\n"


# TLS


@pytest.fixture
def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    """Those that the programs on the page load."""
    monkeypatch.chdir(tmp_path)
    made = Certificates.make(tmp_path, "client.example")
    shutil.copy(made.certfile, "server.pem")
    shutil.copy(made.keyfile, "server.key")
    return made


@TLS.executes("With the command")
def test_tls_with_the_command(
    walk: Callable[[Page], None], require_program: Callable[[str], str]
) -> None:
    require_program("openssl")
    walk(TLS)


@TLS.executes("In a program")
async def test_tls_in_a_program(certificates: Certificates) -> None:
    async with TLS.namespace("In a program")["server"] as server:
        await server.start_serving()
        context = certificates.client_context()
        async with tls_client(server.server_address, context) as (reader, writer):
            writer.write(b"one\n")
            assert await reader.readline() == b"one\n"


@TLS.executes("Clients with certificates")
async def test_clients_with_certificates(certificates: Certificates) -> None:
    async with TLS.namespace("Clients with certificates")["server"] as server:
        await server.start_serving()
        context = certificates.client_context()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with tls_client(server.server_address, context) as (reader, _):
                await reader.readexactly(1)
        context.load_cert_chain(certificates.certfile, certificates.keyfile)
        async with tls_client(server.server_address, context) as (reader, _):
            assert await reader.readline() == b"hello, client.example\n"


@TLS.executes("Asked for later")
async def test_a_certificate_that_is_asked_for_later(certificates: Certificates) -> None:
    async with TLS.namespace("Asked for later")["server"] as server:
        await server.start_serving()
        context = certificates.client_context()
        context.load_cert_chain(certificates.certfile, certificates.keyfile)
        context.post_handshake_auth = True
        async with tls_client(server.server_address, context) as (reader, writer):
            for said, answer in (b"hi\n", b"hello\n"), (b"enter\n", b"who are you?\n"):
                writer.write(said)
                assert await reader.readline() == answer
            writer.write(b"enter\n")
            assert await reader.readline() == b"welcome\n"


@TLS.executes("STARTTLS")
async def test_starttls(certificates: Certificates) -> None:
    async with TLS.namespace("STARTTLS")["server"] as server:
        await server.start_serving()
        reader, writer = await asyncio.open_connection(*server.server_address)
        writer.write(b"HELO\r\n")
        assert await reader.readline() == b"250 HELO\r\n"
        writer.write(b"STARTTLS\r\n")
        assert await reader.readline() == b"220 go ahead\r\n"
        context = certificates.client_context()
        await writer.start_tls(context, server_hostname="127.0.0.1")
        writer.write(b"STARTTLS\r\n")
        assert await reader.readline() == b"250 STARTTLS\r\n"
        writer.close()
        await writer.wait_closed()


# Behind a proxy


@PROXY.executes("")
@PROXY.executes("HAProxy")
def test_behind_a_proxy(
    walk: Callable[[Page], None], require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    if shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin") is None:
        require_program("haproxy")
    walk(PROXY)


@PROXY.executes("What else the header says")
async def test_the_name_that_the_client_asked_for() -> None:
    async with PROXY.namespace("What else the header says")["server"] as server:
        await server.start_serving()
        name = b"\x02\x00\x04name"
        addresses = bytes(12)
        header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + bytes([0, len(addresses + name)])
        answer = await ask_server(server.server_address, header + addresses + name)
        assert answer == b"you asked for name\n"


# systemd


@SYSTEMD.executes()
def test_the_service_serves_the_store(tmp_path: Path) -> None:
    units = {block.title: block.text for block in SYSTEMD.all_blocks}
    service = _unit(units["store.service"])
    assert service["Unit"]["Requires"] == "store.socket"
    line = service["Service"]["ExecStart"].replace("\\\n", " ")
    program, serve, *arguments = shlex.split(line.replace("/srv/store/store.py", "store.py"))
    assert (Path(program).name, serve) == ("aiosocketserver", "serve")
    assert _unit(units["store.socket"])["Install"]["WantedBy"] == "sockets.target"

    (tmp_path / "store.py").write_text(_store())
    with serving_application(tmp_path, *arguments, "--bind", "tcp://127.0.0.1:0") as command:
        assert ask(command.ports[0], b"SET a 1\nGET a\n") == b"OK\n1\n"
        assert command.end() == 0


@SYSTEMD.executes()
def test_systemd_takes_the_units(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    program = require_program("systemd-analyze")
    # The only thing that has to be there.
    executable = tmp_path / "aiosocketserver"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    paths = []
    for block in SYSTEMD.all_blocks:
        assert block.title is not None
        paths.append(tmp_path / block.title)
        text = block.text.replace("/srv/store/venv/bin/aiosocketserver", str(executable))
        paths[-1].write_text(text)
    done = subprocess.run(
        [program, "verify", "--man=no", *paths], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def _unit(text: str) -> configparser.RawConfigParser:
    # A key may come again, as ListenStream does.
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    return parser


def _store() -> str:
    """The store as it is at the end of the tutorial."""
    tutorial = Page("docs/tutorial.md")
    return [block.text for block in tutorial.all_blocks if block.title == "store.py"][-1]


# Kubernetes


@KUBERNETES.executes()
def test_the_container_and_its_probes(tmp_path: Path) -> None:
    (block,) = KUBERNETES.all_blocks
    pod = yaml.safe_load(block.text)
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--bind=tcp://*:{ports['echo']}" in container["args"]
    assert f"--metrics=0.0.0.0:{ports['metrics']}" in container["args"]
    options = dict(
        argument.removeprefix("--").split("=")
        for argument in container["args"]
        if argument.startswith("--")
    )
    needed = int(options["drain-delay"]) + int(options["shutdown-timeout"]) + 2
    assert pod["terminationGracePeriodSeconds"] > needed

    program, serve, *arguments = (
        argument.replace("9100", "0").replace("9999", "0").replace("delay=5", "delay=0")
        for argument in container["args"]
    )
    assert (program, serve) == ("aiosocketserver", "serve")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with serving_application(tmp_path, *arguments) as command:
        text = "\n".join(command.lines)
        metrics = int(text.partition("metrics and health on http://0.0.0.0:")[2].split()[0])
        for probe in ("readinessProbe", "livenessProbe"):
            check = container[probe]["httpGet"]
            assert check["port"] == "metrics"
            assert get(metrics, check["path"])[0] == 200
        assert command.end() == 0

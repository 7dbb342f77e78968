"""README.md does what it says: its quick start word for word, and every other Python block."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import aiosocketserver
from tests.compat_support import ask, serving
from tests.deploy_support import ask as ask_port
from tests.deploy_support import serving_application
from tests.page_support import PORT, ROOT, Page
from tests.tls_support import Certificates, tls_client

README = Page("README.md")
TIMEOUT = 20


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell's, where python3 is this Python and pip builds with what is installed for the tests.

    pip would else download the build backend; all that the commands say happens as it says.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    python3 = programs / "python3"
    python3.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python3.chmod(0o755)
    backend = subprocess.run(
        [sys.executable, "-c", "import hatchling; print(*hatchling.__path__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return {
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": str(Path(backend).parent),
        "PYTHONUNBUFFERED": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        # pip's name for it is a negative, and so 0 is what turns the isolation off.
        "PIP_NO_BUILD_ISOLATION": "0",
    }


@README.executes("Quick start")
def test_quick_start_works_word_for_word(
    environment: dict[str, str], tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    require_program("nc")
    install, start, talk = README.blocks("sh", "Quick start")
    [server] = README.blocks("python", "Quick start")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server, talk = server.replace("9999", port), talk.replace("9999", port)

    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("aiosocketserver", "compat"):
        shutil.copytree(
            ROOT / name,
            checkout / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    subprocess.run(["sh", "-e", "-c", install], cwd=checkout, env=environment, check=True)
    del environment["PYTHONPATH"]

    # In another folder, so that what was installed is what is imported.
    (tmp_path / "server.py").write_text(server)
    shell = f". {checkout}/venv/bin/activate\nexec {start}"
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(
            subprocess.Popen(
                ["sh", "-e", "-c", shell],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(serving.kill)
        assert serving.stdout is not None
        assert serving.stdout.readline() == f"serving on ('127.0.0.1', {port})\n"
        client = stack.enter_context(
            subprocess.Popen(
                ["sh", "-c", f"exec {talk}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        stack.callback(client.kill)
        assert client.stdin is not None
        assert client.stdout is not None
        for line in ("one\n", "two\n"):
            client.stdin.write(line)
            assert client.stdout.readline() == line
        client.kill()
        client.wait(TIMEOUT)
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=TIMEOUT)
        assert errors.splitlines()[-1] == "KeyboardInterrupt"


async def talk(server: aiosocketserver.TCPServer, *texts: bytes) -> list[bytes]:
    """What a client of a stream server gets for each text that it sends."""
    await server.start_serving()
    if server.address_family == socket.AF_UNIX:
        reader, writer = await asyncio.open_unix_connection(server.server_address)
    else:
        reader, writer = await asyncio.open_connection(*server.server_address)
    answers = []
    for text in texts:
        writer.write(text)
        answers.append(await reader.readline())
    writer.close()
    await writer.wait_closed()
    return answers


@README.executes("Legacy handlers, in threads")
async def test_legacy_handler_and_its_migrated_form_answer_alike() -> None:
    names = README.namespace("Legacy handlers, in threads")
    address = ("127.0.0.1", 0)
    async with aiosocketserver.ThreadingTCPServer(address, names["Legacy"]) as server:
        assert await talk(server, b"one\n", b"two\n") == [b"one\n", b"two\n"]
    async with aiosocketserver.TCPServer(address, names["Migrated"]) as server:
        assert await talk(server, b"one\n", b"two\n") == [b"one\n", b"two\n"]


@README.executes("Legacy handlers, in threads")
async def test_two_servers_on_one_loop_serve_until_they_are_cancelled() -> None:
    main = asyncio.create_task(README.namespace("Legacy handlers, in threads")["main"]())
    # One turn of the loop, in which both begin to serve, and one in which they would fail.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not main.done()
    main.cancel()
    with pytest.raises(asyncio.CancelledError):
        await main


@README.executes("Programs that exist", 0)
def test_a_program_that_exists_needs_no_change() -> None:
    # Which test_migration_page.py runs.
    migration = Page("docs/migration.md")
    assert README.blocks("sh", "Programs that exist") == migration.blocks("sh", "No line changed")


@README.executes("Programs that exist", 1)
def test_a_program_that_exists_needs_one_changed_line() -> None:
    with serving(README.namespace("Programs that exist")["server"]) as server:
        assert ask(server.server_address, b"one\ntwo\n") == b"one\ntwo\n"


@README.executes("From the loop to a thread, and back")
async def test_crossing_from_the_loop_to_a_thread() -> None:
    names = README.namespace("From the loop to a thread, and back")
    async with aiosocketserver.TCPServer(("127.0.0.1", 0), names["Coroutine"]) as server:
        assert await talk(server, b"one\n", b"two\n") == [b"ONE\n", b"TWO\n"]


@README.executes("From the loop to a thread, and back")
async def test_crossing_from_a_thread_to_the_loop() -> None:
    names = README.namespace("From the loop to a thread, and back")
    async with aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), names["Legacy"]) as server:
        serving = asyncio.create_task(server.serve_forever())
        assert await talk(server, b"one\n", b"stop\n") == [b"one\n", b""]
        await serving


@README.executes("Datagrams")
async def test_datagrams() -> None:
    names = README.namespace("Datagrams")
    twice = aiosocketserver.UDPServer(("127.0.0.1", 0), names["Twice"])
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        async with names["server"] as upper, twice:
            for server, answers in ((upper, [b"ONE"]), (twice, [b"one", b"one"])):
                await server.start_serving()
                client.sendto(b"one", server.server_address)
                for answer in answers:
                    assert await loop.sock_recv(client, 100) == answer
            assert (upper.statistics.datagrams_dropped, upper.datagrams_dropped_by_kernel) in (
                (0, 0),
                (0, None),
            )


@README.executes("Unix sockets")
async def test_unix_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with README.namespace("Unix sockets")["server"] as server:
        assert await talk(server, b"one\n") == [b"one\n"]
    assert not (tmp_path / "echo.sock").exists()


@README.executes("TLS")
async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    certificates = Certificates.make(tmp_path)
    async with README.namespace("TLS")["server"] as server:
        await server.start_serving()
        client = certificates.client_context()
        async with tls_client(server.server_address, client) as (reader, writer):
            writer.write(b"one\n")
            assert await reader.readline() == b"one\n"


@README.executes("Behind a proxy")
async def test_behind_a_proxy() -> None:
    async with README.namespace("Behind a proxy")["server"] as server:
        header = b"PROXY TCP4 192.0.2.1 127.0.0.1 5 6\r\n"
        assert await talk(server, header) == [b"hello, 192.0.2.1\n"]


@README.executes("As a service")
def test_as_a_service(tmp_path: Path) -> None:
    [block] = README.blocks("sh", "As a service")
    _, command = block.splitlines()
    program, serve, *arguments = PORT.sub("0", command).replace("9100", "0").split()
    assert (program, serve) == ("aiosocketserver", "serve")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with serving_application(tmp_path, *arguments) as running:
        assert len(running.children()) == 2
        assert ask_port(running.ports[0], b"hello\n") == b"hello\n"
        assert (tmp_path / "echo.sock").is_socket()
        assert running.end() == 0

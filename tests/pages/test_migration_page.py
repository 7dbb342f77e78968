"""docs/migration.md does what it says: each of its programs, and each of its commands."""

import asyncio
import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import aiosocketserver
from aiosocketserver import compat
from aiosocketserver.compat.engine import Engine
from tests.compat_support import ask, serving
from tests.page_support import PORT, ROOT, Page
from tests.port_support import free_port
from tests.support import ask as ask_core

PAGE = Page("docs/migration.md")
TIMEOUT = 20


def get(address: tuple[str, int], path: str) -> int:
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


@PAGE.executes("One line changed", 0)
def test_one_changed_line() -> None:
    with serving(PAGE.namespace("One line changed")["server"]) as server:
        assert ask(server.server_address, b"one\ntwo\n") == b"one\ntwo\n"


@PAGE.executes("One line changed", 1)
def test_a_class_half_from_here_and_half_from_there() -> None:
    with serving(PAGE.namespace("One line changed", 1)["server"]) as server:
        assert get(server.server_address, "/no-such-file") == 404


@PAGE.executes("Two lines, before all others")
def test_two_lines_before_all_others() -> None:
    program = PAGE.source("Two lines, before all others") + (
        "import threading, urllib.request\n"
        "from aiosocketserver.compat.engine import Engine\n"
        "assert isinstance(server, Engine)\n"
        "threading.Thread(target=server.serve_forever).start()\n"
        "urllib.request.urlopen('http://%s:%d/' % server.server_address, timeout=20).read()\n"
        "server.shutdown()\n"
        "server.server_close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@PAGE.executes("No line changed")
def test_no_line_changed(tmp_path: Path) -> None:
    first, second = PAGE.blocks("sh", "No line changed")[0].splitlines()
    (tmp_path / "server.py").write_text("import socketserver, sys\nprint(sys.argv, socketserver)")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *shlex.split(first)[1:]]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "['server.py', '--its', '--own', '--arguments']" in done.stdout
    assert "aiosocketserver" in done.stdout

    command = [sys.executable, *shlex.split(second.replace("8000", "0 --bind 127.0.0.1"))[1:]]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = re.findall(r"port (\d+)", server.stdout.readline())
        assert get(("127.0.0.1", int(port[0])), "/server.py") == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(TIMEOUT) == 0


@PAGE.executes("2. One handler after the other")
def test_one_handler_after_the_other() -> None:
    names = PAGE.namespace("2. One handler after the other")
    names["start"]()
    assert ask(names["commands"].server_address, b"One\n") == b"ONE\n"
    assert ask(names["events"].server_address, b"One\n") == b"one\n"
    names["stop"]()


@PAGE.executes("The tool")
def test_the_tool_shows_and_tells_what_the_page_says(tmp_path: Path) -> None:
    commands = PAGE.blocks("sh", "The tool")[0].splitlines()[1:]
    (source,) = PAGE.blocks("python", "The tool")
    (shown,) = PAGE.blocks("diff", "The tool")
    (told,) = PAGE.blocks("text", "The tool")
    (tmp_path / "server.py").write_text(source)
    (tmp_path / "src").mkdir()
    show, write = (
        subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        for command in commands
    )
    assert (show.returncode, show.stdout, show.stderr) == (1, shown, told)
    assert (write.returncode, write.stdout, write.stderr) == (1, "", told)
    names: dict[str, Any] = {}
    exec(PORT.sub("0", (tmp_path / "server.py").read_text()), names)
    with serving(names["commands"]) as server:
        assert ask(server.server_address, b"one\ntwo\n") == b"ONE\nTWO\n"
    names["reports"].server_close()


@PAGE.executes("All servers on one loop")
async def test_all_servers_on_one_loop() -> None:
    names = PAGE.namespace("All servers on one loop")
    addresses = [names[name].server_address for name in ("commands", "events")]
    main = asyncio.create_task(names["main"]())
    answers = [await asyncio.to_thread(ask, address, b"One\n") for address in addresses]
    assert answers == [b"ONE\n", b"one\n"]
    await asyncio.to_thread(names["commands"].shutdown)
    await asyncio.to_thread(names["events"].shutdown)
    await main


def test_a_coroutine_handler_stops_its_server_as_the_page_says() -> None:
    [advice] = re.findall(r"`(threading\.Thread\(.*?\)\.start\(\))` does it", PAGE.text)
    source = (
        "class Handler(aiosocketserver.BaseRequestHandler):\n"
        f"    async def handle(self):\n        {advice}\n"
    )
    names: dict[str, Any] = {"aiosocketserver": aiosocketserver, "threading": threading}
    exec(source, names)
    with compat.TCPServer(("127.0.0.1", 0), names["Handler"]) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert ask(server.server_address) == b""
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_the_attributes_that_are_options_are_told() -> None:
    [row] = [line for line in PAGE.text.splitlines() if line.startswith("| attributes of these")]
    told = set(re.findall(r"`(\w+)`", row.split("|")[3]))
    classes = (Engine, compat.ThreadingMixIn, compat.ForkingMixIn)
    added = {name for cls in classes for name in vars(cls) if not name.startswith("_")}
    standard = {
        name
        for cls in vars(compat).values()
        for base in getattr(cls, "__mro__", ())
        if base.__module__ == "socketserver"
        for name in vars(base)
    }
    assert told == added - standard


@PAGE.executes("From asyncio streams")
@pytest.mark.parametrize("number", [0, 1])
async def test_a_server_of_streams_and_what_becomes_of_it(number: int) -> None:
    port = free_port()
    names: dict[str, Any] = {}
    exec(PAGE.blocks("python", "From asyncio streams")[number].replace("9994", str(port)), names)
    serving = asyncio.create_task(names["main"]())
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except ConnectionRefusedError:
            # Nothing tells when it serves.
            await asyncio.sleep(0.01)
    writer.write(b"one\ntwo\n")
    writer.write_eof()
    assert await reader.read() == b"ONE\nTWO\n"
    writer.close()
    await writer.wait_closed()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


@PAGE.executes("From gevent")
async def test_a_function_of_gevents_in_a_greenlet() -> None:
    async with PAGE.namespace("From gevent")["server"] as server:
        await server.start_serving()
        assert await ask_core(server.server_address, b"hello") == b"HELLO"

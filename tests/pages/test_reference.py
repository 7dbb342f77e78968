"""docs/reference/: every public name is there, and the code beside them does what it says."""

import asyncio
import logging
import re
import socket

import pytest

import aiosocketserver
from aiosocketserver import compat
from tests.page_support import ROOT, Page
from tests.support import ask
from tools import option_page

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
SERVERS = Page("docs/reference/servers.md")
THREADS = Page("docs/reference/threads.md")
STATISTICS = Page("docs/reference/statistics.md")
OPTIONS = Page("docs/reference/options.md")
COMPAT = Page("docs/reference/compat.md")

# What is rendered from docstrings.
RENDERED = [
    name
    for page in PAGES
    for name in re.findall(r"^::: aiosocketserver\.([\w.]+)$", page.read_text(), re.MULTILINE)
]


def test_every_public_name_is_there_once() -> None:
    names = [name for name in RENDERED if "." not in name]
    assert sorted(names) == sorted(aiosocketserver.__all__)


def test_every_name_of_compat_is_there() -> None:
    assert set(vars(compat)["__all__"]) <= set(re.findall(r"`(\w+)`", COMPAT.text))


def test_the_table_of_options_is_made_from_the_code() -> None:
    """`python tools/option_page.py` writes it again."""
    assert option_page.written() in OPTIONS.text


async def ask_datagram(address: tuple[str, int], answers: int) -> list[bytes]:
    """What a client of a datagram server gets for one datagram."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.sendto(b"one", address)
        return [await loop.sock_recv(client, 100) for _ in range(answers)]


@SERVERS.executes("Life cycle")
async def test_several_servers_on_one_loop() -> None:
    names = SERVERS.namespace("Life cycle")
    main = asyncio.create_task(names["main"]())
    assert await ask(names["echo"].server_address, b"one\n") == b"one\n"
    assert await ask_datagram(names["upper"].server_address, 1) == [b"ONE"]
    main.cancel()
    with pytest.raises(asyncio.CancelledError):
        await main


@SERVERS.executes("Where it listens")
async def test_a_given_socket_for_both_families() -> None:
    async with SERVERS.namespace("Where it listens")["server"] as server:
        await server.start_serving()
        port = server.server_address[1]
        for address in (("127.0.0.1", port), ("::1", port, 0, 0)):
            assert await ask(address) == b"hello\n"


@SERVERS.executes("Datagrams")
async def test_several_answers_to_a_datagram() -> None:
    async with SERVERS.namespace("Datagrams")["server"] as server:
        await server.start_serving()
        assert await ask_datagram(server.server_address, 2) == [b"one", b"one"]


@THREADS.executes("From the loop to a thread, and back")
async def test_from_the_loop_to_a_thread() -> None:
    handler = THREADS.namespace("From the loop to a thread, and back")["Coroutine"]
    async with aiosocketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"one\ntwo\n") == b"ONE\nTWO\n"


@THREADS.executes("From the loop to a thread, and back")
async def test_from_a_thread_to_the_loop() -> None:
    handler = THREADS.namespace("From the loop to a thread, and back")["Legacy"]
    async with aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        serving = asyncio.create_task(server.serve_forever())
        assert await ask(server.server_address, b"one\nstop\n") == b"one\n"
        await serving


@STATISTICS.executes()
async def test_the_number_of_a_request_in_log_records(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hello")
    async with STATISTICS.namespace("")["server"] as server:
        await server.start_serving()
        assert await ask(server.server_address) == b"hello\n"
    (message,) = caplog.messages
    assert re.fullmatch(r"request \d+: saying hello", message)

"""docs/greenlets.md does what it says."""

import logging
import re
from pathlib import Path

import pytest

import aiosocketserver
from tests.page_support import Page
from tests.support import ask

PAGE = Page("docs/greenlets.md")


@PAGE.executes("Greenlets")
@pytest.mark.parametrize(("number", "answer"), [(0, b"one\ntwo\n"), (1, b"ONE\nTWO\n")])
async def test_the_same_handler_in_greenlets_and_in_threads(number: int, answer: bytes) -> None:
    names = PAGE.namespace("Greenlets", number)
    handler = names["server"].RequestHandlerClass
    threads = aiosocketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    async with names["server"] as greenlets, threads:
        for server in (greenlets, threads):
            await server.start_serving()
            assert await ask(server.server_address, b"one\ntwo\n") == answer


@PAGE.executes("What blocks all the same")
async def test_what_blocks_is_told_as_the_page_shows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = (
        "import socketserver\nimport time\n\n\nclass Names(socketserver.StreamRequestHandler):\n"
        "    def handle(self):\n" + "        pass\n" * 7 + "        time.sleep(1)\n"
    )
    (tmp_path / "names.py").write_text(program)
    names: dict[str, type] = {}
    exec(compile(program, "names.py", "exec"), names)
    server = aiosocketserver.GreenletTCPServer(("127.0.0.1", 0), names["Names"])
    with caplog.at_level(logging.WARNING):
        async with server:
            await server.start_serving()
            assert await ask(server.server_address) == b""
    [shown] = [block.text for block in PAGE.all_blocks if block.language == "text"]
    varying = re.compile(r"0\.\d\d s|\('127.0.0.1', \d+\)")
    [message] = [record.getMessage() for record in caplog.records]
    assert varying.sub("", message) == varying.sub("", shown.rstrip())


@PAGE.executes("Programs that exist")
def test_the_command_is_that_of_compat() -> None:
    # tests/compat/test_compat_greenlets.py runs it.
    assert PAGE.blocks("sh") == ["python -m aiosocketserver.compat --greenlets server.py\n"]

"""Examples with the clients of tutorials: our own of the same kind, and the tutorials' own.

Where the tutorials' clients are not, those tests are skipped (tests/client_support.py).
"""

import re
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.client_support import Program, client, ours, text
from tests.example_support import CALL_CENTRES, LOOPS, call_centre, running

BIND = "tcp://127.0.0.1:0"


def either(own: str, of_the_text: str) -> pytest.MarkDecorator:
    """Run a test with a client of our own, and with that of a text."""
    found: list[Callable[[], Program]] = [lambda: ours(own), lambda: text(of_the_text)]
    return pytest.mark.parametrize("find", found, ids=["ours", of_the_text.partition(".")[0]])


class TestCallCentre:
    @pytest.fixture(params=CALL_CENTRES)
    def port(self, request: pytest.FixtureRequest, tmp_path: Path) -> Generator[int]:
        with call_centre(request.param, tmp_path) as centre:
            yield centre.ports[0]

    @either("caller", "000_client.py2")
    def test_a_caller(self, port: int, find: Callable[[], Program]) -> None:
        program = find()
        prompt = program.prompt
        with client(program, port) as caller:
            assert caller.until(prompt) == prompt
            # It reads once for each input: the greeting first, or that and the first answer.
            shown = ""
            for each in ("0", "12", "exit"):
                caller.enter(each)
                shown += caller.until(f"\n{prompt}").removesuffix(f"\n{prompt}")
            assert shown.startswith("您好! 这里是面包房")
            assert shown.endswith(
                "on the way to the phone.\n没听懂.\nNothing is known by that number.\n"
            )
            output, errors = caller.end()
        assert output == ""
        assert "EOFError" in errors


@pytest.mark.parametrize("loop", LOOPS)
class TestEchoes:
    @either("two_at_once", "001_forking_client.py2")
    def test_two_connections_have_a_process_each(
        self, find: Callable[[], Program], loop: str, tmp_path: Path
    ) -> None:
        program = find()
        said = program.found(r"^[A-Z_]+ = ['\"](.*)['\"]$")
        visitor_class = program.found(r"^class (\w+)")
        with running("forking_echo", BIND, loop=loop, folder=tmp_path) as echo:
            port = echo.ports[0]
            more = (
                f"\nvisitors = [{visitor_class}('127.0.0.1', {port}) for _ in range(2)]"
                "\nfor visitor in visitors: visitor.run()"
                "\nfor visitor in visitors: visitor.shutdown()"
            )
            with client(program, port, more) as visitor:
                output, errors = visitor.end()
            assert errors == ""
            children = re.findall(rf": process (\d+) heard: {re.escape(said)}\n", output)
            assert len(set(children)) == 2
            assert str(echo.process.pid) not in children

    @either("one_after_another", "001_threading_client.py2")
    def test_each_connection_has_a_thread_of_its_own_name(
        self, find: Callable[[], Program], loop: str, tmp_path: Path
    ) -> None:
        program = find()
        visit = program.found(r"^def (\w+)")
        with running("threading_echo", BIND, loop=loop, folder=tmp_path) as echo:
            port = echo.ports[0]
            more = f"\nfor each in '123': {visit}('127.0.0.1', {port}, 'visit ' + each)"
            with client(program, port, more) as visitor:
                output, errors = visitor.end()
        assert errors == ""
        names, ends = zip(*(line.rsplit(": ", 1) for line in output.splitlines()), strict=True)
        assert ends == tuple(f"visit {each}" for each in "123")
        assert len(set(names)) == 3
        assert all("Thread-" in name for name in names)

    @either("listens", "002_client.py3")
    def test_a_greeting(self, find: Callable[[], Program], loop: str, tmp_path: Path) -> None:
        program = find()
        with (
            running("select_echo", "greet", BIND, loop=loop, folder=tmp_path) as greeting,
            client(program, greeting.ports[0]) as visitor,
        ):
            assert visitor.end() == ("b'good day\\n'\n", "")


@pytest.mark.parametrize("way", ["tasks", "threads", "children"])
@either("in_capitals", "003_client.py3")
def test_upper_case(find: Callable[[], Program], way: str, tmp_path: Path) -> None:
    program = find()
    with (
        running("upper", "--in", way, BIND, folder=tmp_path) as upper,
        client(program, upper.ports[0]) as visitor,
    ):
        # The third line is empty, and not sent.
        for line in ("hello", "groß", ""):
            visitor.enter(line)
            if line:
                # ASCII letters only: bytes have no others.
                answer = visitor.until("\n").removeprefix(program.prompt)
                assert answer == line.encode().upper().decode() + "\n"
        assert "EOFError" in visitor.end()[1]


@pytest.mark.parametrize("model", ["one", "pool", "threads", "tasks"])
@either("asks_the_time", "004_client.py2")
def test_the_time(find: Callable[[], Program], model: str, tmp_path: Path) -> None:
    program = find()
    with (
        running("time_server", "--model", model, BIND, folder=tmp_path) as server,
        client(program, server.ports[0]) as visitor,
    ):
        for line in ("hello", "again"):
            visitor.enter(line)
            answer = visitor.until("\n").removeprefix(program.prompt)
            stamp, _, said = answer.partition(" | ")
            assert time.strptime(stamp)
            assert said == f"{line}\n"
        visitor.enter("")
        assert visitor.end() == (program.prompt, "")

"""line_kv.py with redis-cli, redis-benchmark and clients that misbehave."""

import contextlib
import re
import socket
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.deploy_support import Command, ask, receive_all
from tests.example_support import LOOPS, TIMEOUT, running, say

BIND = "tcp://127.0.0.1:0"


@pytest.fixture(params=LOOPS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Command]:
    with running("line_kv", BIND, loop=request.param, folder=tmp_path) as program:
        yield program


def test_redis_cli(store: Command, require_program: Callable[[str], str]) -> None:
    redis = [require_program("redis-cli"), "-p", str(store.ports[0])]
    assert say([*redis, "ping"], "") == "PONG\n"
    assert say([*redis, "set", "grüße", "zwei Wörter"], "") == "OK\n"
    assert say([*redis, "--raw", "get", "grüße"], "") == "zwei Wörter\n"
    assert say([*redis, "get", "nothing"], "") == "\n"
    commands = "INCR n\nincr n\nMSET a 1 b 2\nMGET a none b\nDEL a b c\nDBSIZE\nincr grüße\nget\n"
    assert say(redis, commands).splitlines() == [
        "1",
        "2",
        "OK",
        *("1", "", "2"),
        "2",
        "2",
        *("ERR value is not an integer or out of range", ""),
        *("ERR unknown command, or not with these arguments: b'get'", ""),
    ]


def test_redis_benchmark(store: Command, require_program: Callable[[str], str]) -> None:
    load = ["-t", "ping,set,get,incr,mset", "-n", "2000", "-c", "10", "-P", "16", "-r", "100"]
    done = subprocess.run(
        [require_program("redis-benchmark"), "-p", str(store.ports[0]), *load, "--csv"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stderr == ""
    tests = re.findall(r'^"([^"]+)","([\d.]+)"', done.stdout, re.MULTILINE)
    assert [name for name, _ in tests] == [
        "PING_INLINE",
        "PING_MBULK",
        "SET",
        "GET",
        "INCR",
        "MSET (10 keys)",
    ]


def test_pipelined_commands_cut_anywhere_are_answered_in_order(store: Command) -> None:
    commands = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n" + b"get k\r\n\r\nPING x\r\n" * 3
    answers = b"+OK\r\n" + b"$4\r\na\r\nb\r\n$1\r\nx\r\n" * 3
    assert ask(store.ports[0], commands) == answers
    with socket.create_connection(("127.0.0.1", store.ports[0]), timeout=TIMEOUT) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in commands:
            client.sendall(bytes([byte]))
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == answers


@pytest.mark.parametrize(
    ("rubbish", "problem"),
    [
        (b"*1\r\n$9999999999\r\n", b"'$9999999999\\r\\n' is above the limit of 1048576"),
        (b"*9999\r\n", b"'*9999\\r\\n' is above the limit of 1024"),
        (b"*2\r\n$1048576\r\n" + b"x" * 1048576 + b"\r\n$1\r\n", b"is above the limit of 0"),
        (b"*1\r\n:4\r\n", b"expected b'$' and a number, got b':4\\r\\n'"),
        (b"*-5\r\n", b"expected b'*' and a number"),
        (b"*1\r\n$4\r\nPINGS\r\n", b"a string is longer than its length says"),
        (b"x" * 100_000, b"Protocol error: "),
    ],
)
def test_what_is_not_resp_is_told_and_ends_the_connection(
    rubbish: bytes, problem: bytes, store: Command
) -> None:
    answer = ask(store.ports[0], rubbish)
    assert answer.startswith(b"-ERR Protocol error: ")
    assert problem in answer
    assert answer.count(b"\r\n") == 1
    assert ask(store.ports[0], b"PING\r\n") == b"+PONG\r\n"


@pytest.mark.parametrize("cut", [b"*2\r\n$3\r\nDEL\r\n", b"*2\r\n$3\r\nDEL\r\n$1\r\n", b"DEL k"])
def test_a_command_that_is_cut_is_not_carried_out(cut: bytes, store: Command) -> None:
    assert ask(store.ports[0], b"set k v\r\n" + cut) == b"+OK\r\n"
    assert ask(store.ports[0], b"get k\r\n") == b"$1\r\nv\r\n"


def test_memory_is_limited(tmp_path: Path) -> None:
    with running("line_kv", "--max-bytes", "1000", BIND, folder=tmp_path) as store:
        port = store.ports[0]
        large = b"x" * 400
        full = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
        assert ask(port, b"set a %b\r\nset b %b\r\n" % (large, large)) == b"+OK\r\n" + full
        # All or nothing, and what is removed or replaced makes room.
        assert ask(port, b"mset b 1 c %b\r\ndbsize\r\n" % large) == full + b":1\r\n"
        assert ask(port, b"set a 1\r\nset b %b\r\n" % large) == b"+OK\r\n" * 2
        assert ask(port, b"del b\r\nset c %b\r\n" % large) == b":1\r\n+OK\r\n"


def test_a_client_between_two_commands_does_not_hold_up_the_end(store: Command) -> None:
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", store.ports[0]), timeout=TIMEOUT)
    ) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        assert store.end() == 0
        assert client.recv(100) == b""
    assert "drained: 1 requests finished, 0 cut, 0 abandoned" in store.lines

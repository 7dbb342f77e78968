"""syslog_sink.py with logger, and what is in its database when the process has been killed."""

import itertools
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.example_support import LOOPS, TIMEOUT, problem, running

pytestmark = pytest.mark.parametrize("loop", LOOPS)


def rows(database: Path) -> list[tuple[str, int, int, str]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            "select host, facility, severity, message from messages order by rowid"
        ).fetchall()


def test_logger(loop: str, tmp_path: Path, require_program: Callable[[str], str]) -> None:
    logger = require_program("logger")
    database, path = tmp_path / "log.db", tmp_path / "log.sock"
    binds = ("udp://127.0.0.1:0", f"unix-dgram://{path}")
    with running("syslog_sink", str(database), *binds, loop=loop, folder=tmp_path) as sink:
        over_udp = ["--udp", "--server", "127.0.0.1", "--port", str(sink.ports[0])]
        for arguments in (
            [*over_udp, "--priority", "mail.err", "über UDP"],
            ["--socket", str(path), "--socket-errors=on", "--priority", "local7.debug", "local"],
        ):
            subprocess.run([logger, *arguments], check=True, timeout=TIMEOUT)
    (udp, local) = sorted(rows(database))
    assert udp[:3] == ("127.0.0.1", 2, 3)
    assert udp[3].endswith("über UDP")
    assert local[:3] == ("local", 23, 7)
    assert local[3].endswith("local")


def test_what_the_kernel_took_is_written_before_the_end(loop: str, tmp_path: Path) -> None:
    database, path = tmp_path / "log.db", str(tmp_path / "log.sock")
    sent = [f"number {number}" for number in range(5000)]
    bind = f"unix-dgram://{path}"
    with (
        running("syslog_sink", str(database), bind, loop=loop, folder=tmp_path) as sink,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        for message in sent:
            sender.sendto(message.encode(), path)
        assert sink.end() == 0
    # Without a priority it is that of RFC 3164.
    assert rows(database) == [("local", 1, 5, message) for message in sent]


def test_what_was_acknowledged_survives_a_kill(loop: str, tmp_path: Path) -> None:
    database = tmp_path / "log.db"
    acknowledged: set[str] = set()
    stop = threading.Event()

    def send(port: int, name: str) -> None:
        for number in itertools.count():
            message = f"{name} {number}"
            # One for each: what acknowledges an earlier message, too late, is for nobody.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.settimeout(0.2)
                sender.connect(("127.0.0.1", port))
                try:
                    sender.send(message.encode())
                    assert sender.recv(10) == b"ok"
                except OSError:
                    if stop.is_set():
                        return
                    continue
            acknowledged.add(message)
            if number >= 50:
                enough.release()
            if stop.is_set():
                return

    enough = threading.Semaphore(0)
    arguments = ("--acknowledge", str(database), "udp://127.0.0.1:0")
    with running("syslog_sink", *arguments, loop=loop, folder=tmp_path) as sink:
        senders = [
            threading.Thread(target=send, args=(sink.ports[0], f"sender {number}"))
            for number in range(4)
        ]
        for each in senders:
            each.start()
        try:
            for _ in range(50):
                assert enough.acquire(timeout=TIMEOUT)
            assert sink.end(signal.SIGKILL) == -signal.SIGKILL
        finally:
            stop.set()
            for each in senders:
                each.join()
    written = {message for *_, message in rows(database)}
    assert len(acknowledged) > 100
    assert acknowledged <= written
    # It goes on with the same database.
    with running("syslog_sink", str(database), "udp://127.0.0.1:0", loop=loop, folder=tmp_path):
        pass


def test_rubbish_is_kept_as_it_came(loop: str, tmp_path: Path) -> None:
    database, path = tmp_path / "log.db", str(tmp_path / "log.sock")
    name = str(tmp_path / "sender.sock")
    rubbish = [b"", b"<", b"<999>x", b"<14", b"\x00\xff\xfe", b"x" * 60_000]
    arguments = ("--acknowledge", str(database), f"unix-dgram://{path}")
    with (
        running("syslog_sink", *arguments, loop=loop, folder=tmp_path),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        sender.settimeout(TIMEOUT)
        sender.bind(name)
        for each in rubbish:
            sender.sendto(each, path)
            assert sender.recv(10) == b"ok"
    assert [row[1:] for row in rows(database)] == [
        (1, 5, ""),
        (1, 5, "<"),
        (124, 7, "x"),
        (1, 5, "<14"),
        (1, 5, "\x00\\xff\\xfe"),
        (1, 5, "x" * 60_000),
    ]


def test_a_write_that_fails_is_told_and_not_acknowledged(loop: str, tmp_path: Path) -> None:
    database = tmp_path / "log.db"
    arguments = ("--acknowledge", str(database), "udp://127.0.0.1:0")
    with (
        running("syslog_sink", *arguments, loop=loop, folder=tmp_path) as sink,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("drop table messages")
        sender.connect(("127.0.0.1", sink.ports[0]))
        sender.send(b"lost")
        sink.until("1 messages were not written")
        sink.until("sqlite3.OperationalError: no such table")
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("create table messages (a, b, c, d, message)")
        sender.settimeout(TIMEOUT)
        sender.send(b"kept")
        assert sender.recv(10) == b"ok"
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):
            sender.recv(10)


def test_a_database_that_cannot_be_opened(loop: str, tmp_path: Path) -> None:
    del loop
    assert "unable to open database file" in problem("syslog_sink", str(tmp_path / "no" / "log.db"))

"""Whoever reads standard output and standard error may stop, or go: a service goes on."""

import contextlib
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from aiosocketserver.deploy import log_output
from tests.deploy_support import APPLICATION, ROOT, ask, get, metrics
from tests.port_support import free_port

# A handler's own records, of which none is held back: tracebacks are, when there are many.
FAILS = """
import logging

def tell():
    logging.getLogger("application").error("exception while serving: %s", "x" * 2100)

class Fails(StreamRequestHandler):
    async def handle(self):
        async for line in self.rfile:
            await self.wfile.write(b"%d\\n" % os.getpid())
            await self.wfile.flush()
            if line == b"fail\\n":
                tell()
                return

class FailsInThread(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(b"%d\\n" % os.getpid())
            if line == b"fail\\n":
                tell()
                return

def in_children(server_address, **options):
    from aiosocketserver import ForkingTCPServer
    return ForkingTCPServer(server_address, FailsInThread, **options)

class Dies(StreamRequestHandler):
    async def handle(self):
        logging.getLogger("application").info("last words")
        os._exit(9)
"""

PROGRAM = """
import logging
import aiosocketserver
from application import Fails

logging.basicConfig(level="INFO", format="x] %(message)s")
bind, metrics = "tcp://127.0.0.1:{port}", "127.0.0.1:{metrics}"
raise SystemExit(aiosocketserver.run(Fails, bind, workers={workers}, metrics=metrics))
"""


class Service:
    """A service whose standard output and error are pipes that a test reads when it wants to."""

    def __init__(self, folder: Path, *arguments: str, program: str = "", **streams: Any) -> None:
        (folder / "application.py").write_text(APPLICATION + FAILS)
        self.port, self.metrics_port = free_port(), free_port()
        command = [
            *("-m", "aiosocketserver", "serve", *arguments),
            *("--bind", f"tcp://127.0.0.1:{self.port}"),
            *("--metrics", f"127.0.0.1:{self.metrics_port}"),
        ]
        if program:
            text = program.format(port=self.port, metrics=self.metrics_port, workers=arguments[0])
            (folder / "program.py").write_text(text)
            command = ["program.py"]
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=streams.get("stdout", subprocess.PIPE),
            stderr=streams.get("stderr", subprocess.PIPE),
            preexec_fn=streams.get("preexec_fn"),
        )

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        assert self.process.stderr is not None
        return self.process.stderr

    def until_it_serves(self) -> None:
        """Ask until all of its workers serve; the pipes are not read."""
        while True:
            assert self.process.poll() is None
            with contextlib.suppress(urllib.error.URLError):
                if get(self.metrics_port, "/readyz")[0] == 200:
                    return

    def check(self) -> int:
        """Have a client served; which process has done so."""
        return int(ask(self.port, b"ask\n"))

    def fail(self) -> None:
        """Have a handler raise: two thousand bytes and more for standard error."""
        assert ask(self.port, b"fail\n")

    def workers(self) -> set[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in path.read_text().split()}

    def dropped(self) -> float:
        return metrics(self.metrics_port)["log_records_dropped_total"]

    def close(self) -> None:
        if self.process.poll() is None:
            for pid in self.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
        self.process.wait(30)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def running(folder: Path, *arguments: str, program: str = "", **streams: Any) -> Generator[Service]:
    service = Service(folder, *arguments, program=program, **streams)
    try:
        service.until_it_serves()
        yield service
    finally:
        service.close()


def fill(pipe: IO[bytes]) -> None:
    """Have no room left in the pipe that is read here."""
    # Another description of the same pipe: the service's stays a blocking one.
    end = os.open(f"/proc/self/fd/{pipe.fileno()}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        while True:
            os.write(end, b".")
    except BlockingIOError:
        pass
    finally:
        os.close(end)


class Reader(threading.Thread):
    """Reads on, and keeps what came."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(daemon=True)
        # Its own, which nobody closes while it reads.
        self._descriptor = os.dup(pipe.fileno())
        self._came = threading.Condition()
        self.text = ""
        self.start()

    def run(self) -> None:
        with open(self._descriptor, "rb", buffering=0) as pipe:
            while block := pipe.read(64 * 1024):
                with self._came:
                    self.text += block.decode()
                    self._came.notify_all()

    def wait_for(self, condition: Callable[[str], object]) -> None:
        with self._came:
            assert self._came.wait_for(lambda: condition(self.text), 30), self.text[-2000:]

    def until(self, pattern: str) -> None:
        self.wait_for(lambda text: re.search(pattern, text))

    def until_count(self, word: str, number: int) -> None:
        self.wait_for(lambda text: text.count(word) >= number)


STALLED: Sequence[object] = [
    pytest.param(("application:Fails",), "", id="coroutines"),
    pytest.param(("application:FailsInThread",), "", id="threads"),
    pytest.param(("application:in_children",), "", id="children"),
    pytest.param((), PROGRAM, id="run"),
]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(("target", "program"), STALLED)
def test_a_reader_of_standard_error_that_stops(
    target: tuple[str, ...], program: str, workers: str, tmp_path: Path
) -> None:
    arguments = [workers] if program else [*target, "--workers", workers]
    with running(tmp_path, *arguments, program=program) as service:
        fill(service.stderr)
        for _ in range(40):
            service.fail()
        if workers == "2":
            (victim, *_) = before = service.workers()
            end = os.pidfd_open(victim)
            os.kill(victim, signal.SIGKILL)
            # Whoever is with it when it dies is cut.
            assert select.select([end], [], [], 30)[0]
            os.close(end)
            while victim in service.workers() or len(service.workers()) < 2:
                assert service.check()
            assert service.workers() != before
        service.check()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0


def test_what_was_dropped_is_told_when_the_reader_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "application:Fails") as service:
        fill(service.stderr)
        # What is kept is 1 MiB, and each failure has more than 2 KiB.
        for _ in range(600):
            service.fail()
        dropped = service.dropped()
        assert dropped
        reader = Reader(service.stderr)
        # Once for each gap: the first record that was kept may be written in between.
        gaps = r"(\d+) log records were dropped because standard error was not read"
        reader.wait_for(lambda text: sum(map(int, re.findall(gaps, text))) == dropped)
        # Those before were kept, and what comes afterwards is complete again.
        count = reader.text.count("exception while serving")
        assert count > 100
        for _ in range(5):
            service.fail()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        reader.join(30)
        assert reader.text.count("exception while serving") == count + 5
        assert "drained: " in reader.text


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_reader_of_the_access_log_that_stops(form: str, workers: str, tmp_path: Path) -> None:
    arguments = ("application:Fails", "--workers", workers, "--access-log", form)
    with running(tmp_path, *arguments) as service:
        errors = Reader(service.stderr)
        fill(service.stdout)
        for _ in range(300):
            service.check()
        assert not service.dropped()
        lines = Reader(service.stdout)
        lines.until_count("finished", 300)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        lines.join(30)
        if form == "json":
            entries = [json.loads(line.lstrip(".")) for line in lines.text.splitlines()]
            assert all(entry["outcome"] == "finished" for entry in entries)
        errors.join(30)
        assert "Traceback" not in errors.text


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("gone", ["reader", "space"])
def test_an_access_log_that_cannot_be_written_is_told_once(
    gone: str, form: str, workers: str, tmp_path: Path
) -> None:
    arguments = ("application:Fails", "--workers", workers, "--access-log", form)
    with contextlib.ExitStack() as stack:
        streams: dict[str, Any] = {}
        if gone == "space":
            streams["stdout"] = stack.enter_context(open("/dev/full", "wb"))
        service = stack.enter_context(running(tmp_path, *arguments, **streams))
        if gone == "reader":
            service.stdout.close()
        errors = Reader(service.stderr)
        errors.until("serving ")
        for _ in range(50):
            service.check()
        errors.until("cannot be written: log records for it are dropped until it can")
        assert service.dropped() > 0
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        errors.join(30)
        assert "Traceback" not in errors.text
        told = errors.text.count("cannot be written")
        assert 1 <= told <= int(workers)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_neither_reader_is_there_any_more(workers: str, tmp_path: Path) -> None:
    arguments = ("application:Fails", "--workers", workers, "--access-log", "text")
    with running(tmp_path, *arguments) as service:
        service.stdout.close()
        service.stderr.close()
        for _ in range(20):
            service.fail()
        assert service.dropped() > 0
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0


def test_a_disk_that_has_room_again_gets_the_access_log_again(tmp_path: Path) -> None:
    """A FIFO can have a reader again, too."""
    path = tmp_path / "access.log"
    os.mkfifo(path)
    # Opened for both, so that neither end waits for the other.
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(path, "wb") as writing:
        arguments = ("application:Fails", "--access-log", "text")
        with running(tmp_path, *arguments, stdout=writing) as service:
            errors = Reader(service.stderr)
            os.close(reading)
            service.check()
            errors.until("standard output cannot be written")
            reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            with open(reading, "rb") as pipe:
                while "could not be written" not in errors.text:
                    service.check()
                os.set_blocking(reading, True)
                assert b" finished " in os.read(pipe.fileno(), 4096)
            errors.until(r"[1-9]\d* log records were dropped because standard output could not")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_last_words_are_told(workers: str, tmp_path: Path) -> None:
    arguments = ("application:Dies", "--workers", workers)
    service = Service(tmp_path, *arguments)
    try:
        errors = Reader(service.stderr)
        errors.until(r"\] serving ")
        with contextlib.suppress(ConnectionError):
            ask(service.port)
        errors.until("last words")
    finally:
        service.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_that_fails_is_told_or_given_up(workers: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe:
        fill(pipe)
        service = Service(tmp_path, "wrong:Echo", "--workers", workers, stderr=theirs)
        try:
            os.close(theirs)
            assert service.process.wait(30) == 2
        finally:
            service.close()


def test_the_line_that_tells_of_dropped_ones_is_not_dropped_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes when the first of what was kept has been written: the queue is still full."""
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe, open(theirs, "wb") as end:
        output = log_output.Output(end.fileno(), "the log")
        handler = logging.StreamHandler(log_output.LogStream(output, end, waits=False))
        logger = logging.getLogger("aiosocketserver.deploy")
        monkeypatch.setattr(logger, "handlers", [handler])
        monkeypatch.setattr(log_output, "MOST_HELD", 3 * select.PIPE_BUF)
        fill(pipe)
        line = b"x" * (select.PIPE_BUF - 1) + b"\n"
        for _ in range(5):
            output.write(line)
        assert output.dropped == 2
        reader = Reader(pipe)
        reader.until("2 log records were dropped because the log was not read in time")
        assert output.flush(30)
        assert output.dropped == 2
        end.close()
        reader.join(30)

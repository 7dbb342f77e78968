"""Log lines to standard output and standard error, without waiting for whoever reads them.

A pipe whose reader stands still, a terminal stopped by Ctrl-S: who writes there waits, and
a loop that waits serves nobody, replaces no worker and hears no signal. So a thread writes
what a bounded queue holds; what does not fit is dropped, counted, and told later.

The standard library's QueueListener does not do: its `stop` waits for the last record
however long that takes, its queue does not survive a fork, and an error in writing is a
traceback for each record.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from time import monotonic
from typing import Any

logger = logging.getLogger("aiosocketserver.deploy")

# Bytes that wait to be written to one descriptor: some ten thousand lines.
MOST_HELD = 1024 * 1024

# Seconds that the writer of a record waits until it is written, so that a process which is
# killed the next moment has told it. Not while records before it still wait.
_MOMENT = 0.05

# Seconds that the end of a process waits for its last records.
LAST_WAIT = 1.0

# Seconds between two lines about dropped records, and between two tries to write after an error.
_TELL_AGAIN = 10.0
_TRY_AGAIN = 1.0

_NAMES = {1: "standard output", 2: "standard error"}


class Output:
    """What is written to one descriptor, by a thread of its own. Its methods suit any thread.

    The thread begins with the first line. A child that was forked begins with an empty
    queue; what it held is the parent's.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self.begin()

    def begin(self) -> None:
        """Hold nothing, and have no thread: at first, and in a child."""
        # Reentrant, because a signal's handler may log, too.
        lock = threading.RLock()
        self._filled = threading.Condition(lock)
        self._written = threading.Condition(lock)
        self._lines: deque[bytes] = deque()
        # Bytes in the queue and of what is being written.
        self._held = 0
        self._behind = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        # Of these, what no log record has told yet, and when the next one may.
        self._untold = 0
        self._tell_at = 0.0
        self._error: OSError | None = None
        self._try_at = 0.0
        # The last write ended within a line.
        self._torn = False

    def write(self, line: bytes) -> None:
        """Have it written, or drop and count it. Never waits."""
        with self._filled:
            full = self._held and self._held + len(line) > MOST_HELD
            # The thread's own lines are few, and one of them tells how many others were dropped.
            full = full and threading.current_thread() is not self._thread
            if full or (self._error is not None and monotonic() < self._try_at):
                self._count_dropped(1)
                return
            self._lines.append(line)
            self._held += len(line)
            if self._thread is None:
                self._start_thread()
            self._filled.notify()

    def wait_a_moment(self) -> None:
        """Wait until all is written, shortly; not at all while the reader is behind."""
        with self._written:
            if self._held and not self._behind and threading.current_thread() is not self._thread:
                self._behind = not self.flush(_MOMENT)

    def flush(self, timeout: float) -> bool:
        """Wait until all is written, `timeout` seconds at most; whether it is."""
        with self._written:
            return self._written.wait_for(lambda: not self._held, timeout)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, daemon=True, name=f"log to {self._name}")
        try:
            thread.start()
        except RuntimeError:
            # No thread can be started now: the line waits for the next one's.
            return
        self._thread = thread

    def _count_dropped(self, number: int) -> None:
        self.dropped += number
        self._untold += number

    # In the thread

    def _run(self) -> None:
        while True:
            with self._filled:
                while not self._lines:
                    self._filled.wait()
                block, number = self._next_block()
            try:
                self._write_all(block)
            except OSError as error:
                self._failed(error, number)
            else:
                self._recovered()
            with self._written:
                self._held -= len(block)
                if not self._held:
                    self._behind = False
                    self._written.notify_all()

    def _next_block(self) -> tuple[bytes, int]:
        """Lines, and how many: as many as a pipe takes in one piece, among other writers."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= select.PIPE_BUF:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        return b"".join(lines), len(lines)

    def _write_all(self, block: bytes) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._torn:
            os.write(self._descriptor, b"\n")
            self._torn = False
        rest = memoryview(block)
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        while rest:
            while not room.poll(1000):
                # Of standard error itself nobody could be told.
                if self._descriptor != 2:
                    self._tell_dropped()
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Non-blocking, by whoever shares it, and less room than the line has bytes.
                continue
            finally:
                self._torn = 0 < len(rest) < len(block)

    def _failed(self, error: OSError, number: int) -> None:
        with self._filled:
            first = self._error is None
            self._error = error
            self._try_at = monotonic() + _TRY_AGAIN
            self._count_dropped(number)
        if first:
            logger.error(
                "%s cannot be written: log records for it are dropped until it can: %s",
                self._name,
                error,
            )

    def _recovered(self) -> None:
        error, self._error = self._error, None
        # Who reads too slowly for ever is told of now and then.
        if not self._lines or error is not None:
            self._tell_at = 0.0
        self._tell_dropped(error)

    def _tell_dropped(self, error: OSError | None = None) -> None:
        now = monotonic()
        if not self._untold or now < self._tell_at:
            return
        self._tell_at = now + _TELL_AGAIN
        with self._filled:
            number, self._untold = self._untold, 0
        why = f"could not be written ({error})" if error else "was not read in time"
        logger.warning("%d log records were dropped because %s %s", number, self._name, why)


class LogStream:
    """A standard stream, as the stream of a `logging.StreamHandler`, which never waits long.

    - waits: whether a record should be written when the call that logs it returns, which
      costs a change of threads; never more than a moment
    """

    def __init__(self, output: Output, stream: Any, *, waits: bool) -> None:
        self._output = output
        self._stream = stream
        self._waits = waits

    def write(self, text: str) -> None:
        """Have it written: the handler calls this once for each record."""
        encoding: str = getattr(self._stream, "encoding", None) or "utf-8"
        self._output.write(text.encode(encoding, "backslashreplace"))

    def flush(self) -> None:
        """The handler calls this after each record."""
        if self._waits:
            self._output.wait_a_moment()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_outputs: dict[int, Output] = {}
# For a process that was started without one: everything is dropped.
_closed = Output(-1, "a standard stream that is closed")


def _begin_in_child() -> None:
    for output in (*_outputs.values(), _closed):
        output.begin()


os.register_at_fork(after_in_child=_begin_in_child)


def _output_of(stream: Any) -> Output | None:
    """Where a stream writes; None if that is no standard stream of this process."""
    if stream is None:
        return _closed
    try:
        descriptor: int = stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
    if descriptor not in _NAMES:
        return None
    return _outputs.setdefault(descriptor, Output(descriptor, _NAMES[descriptor]))


def without_waiting(stream: Any, *, waits: bool = True) -> Any:
    """What a `logging.StreamHandler` is to write to instead; the stream itself if it is another."""
    output = None if isinstance(stream, LogStream) else _output_of(stream)
    return stream if output is None else LogStream(output, stream, waits=waits)


def take_over() -> list[tuple[logging.StreamHandler[Any], Any]]:
    """Have all log handlers that there are write without waiting; them, and their streams before.

    Handlers of programs, too: they keep their formats, filters and levels.
    """
    changed: list[tuple[logging.StreamHandler[Any], Any]] = []
    for handler in _stream_handlers():
        before = handler.stream
        stream = without_waiting(before)
        if stream is not before:
            handler.setStream(stream)
            changed.append((handler, before))
    return changed


def _stream_handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    for each in loggers:
        for handler in each.handlers if isinstance(each, logging.Logger) else ():
            if isinstance(handler, logging.StreamHandler):
                yield handler


@contextlib.contextmanager
def never_waiting() -> Generator[None]:
    """`take_over` until the body ends, which has all written then, if that can be."""
    changed = take_over()
    # What has no handler at all goes there.
    last_resort = logging.lastResort
    if last_resort is not None:
        handler: logging.StreamHandler[Any] = logging.StreamHandler(without_waiting(sys.stderr))
        handler.setLevel(last_resort.level)
        logging.lastResort = handler
    try:
        yield
    finally:
        flush()
        logging.lastResort = last_resort
        for each, stream in changed:
            each.setStream(stream)


def tell(text: str) -> None:
    """Write it to standard error, as far as somebody reads there: for the end of a process."""
    stream = without_waiting(sys.stderr)
    stream.write(text)
    stream.flush()
    flush()


def flush() -> None:
    """Wait until all records are written, for a second at most."""
    deadline = monotonic() + LAST_WAIT
    for output in list(_outputs.values()):
        output.flush(max(deadline - monotonic(), 0))


def dropped() -> int:
    """How many records of this process were dropped."""
    return sum(output.dropped for output in (*_outputs.values(), _closed))

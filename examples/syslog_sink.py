"""A syslog server that keeps what it gets in an SQLite database, on UDP and a Unix socket.

Messages that come while one transaction is being written go into the next one, so that
many share the cost of a durable write. A handler ends when its message is on the disk.
With --acknowledge the sender then gets `ok` back, and what was acknowledged is not lost,
whatever happens to the process; and SIGTERM ends it when all that had come is written.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/syslog_sink.py [--acknowledge] DATABASE [BIND ...]
    logger --udp --server 127.0.0.1 --port 5514 "over the network"
    logger --socket /tmp/log.sock "on this machine"
    sqlite3 DATABASE "select * from messages"

BIND is udp://127.0.0.1:5514 and unix-dgram:///tmp/log.sock by default. The first number in
a message, in <>, tells its facility and severity (RFC 5424, section 6.2.1); the rest is
kept as it came.
"""

import argparse
import asyncio
import contextlib
import logging
import re
import sqlite3
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from aiosocketserver import BaseRequestHandler, StartError, run

Row = tuple[float, str, int, int, str]

PRIORITY = re.compile(rb"<(\d{1,3})>")
# For messages that do not tell theirs: user-level, notice (RFC 3164, section 4.3.3).
DEFAULT_PRIORITY = 13

CREATE = """
create table if not exists messages
    (received real, host text, facility integer, severity integer, message text)
"""

logger = logging.getLogger("syslog_sink")


class Batch:
    """Rows of one transaction, and whether they are on the disk."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Store:
    """The database, in the one thread that an SQLite connection belongs to."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._database = self._thread.submit(self._open, path).result()
        self._gathering: Batch | None = None
        self._writer: asyncio.Task[None] | None = None

    def _open(self, path: str) -> sqlite3.Connection:
        database = sqlite3.connect(path)
        # With a write-ahead log, a transaction is durable only with `full`.
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = full")
        database.execute(CREATE)
        return database

    async def add(self, row: Row) -> bool:
        """Whether the row is on the disk, when that is known."""
        if self._gathering is None:
            self._gathering = Batch()
        batch = self._gathering
        batch.rows.append(row)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_batches())
        # A handler that is cancelled must not cancel it for the others.
        return await asyncio.shield(batch.written)

    async def _write_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while (batch := self._gathering) is not None:
            self._gathering = None
            try:
                await loop.run_in_executor(self._thread, self._write, batch.rows)
                batch.written.set_result(True)
            except sqlite3.Error:
                logger.exception("%d messages were not written", len(batch.rows))
                batch.written.set_result(False)
        self._writer = None

    def _write(self, rows: list[Row]) -> None:
        with self._database:
            self._database.executemany("insert into messages values (?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._thread.submit(self._database.close).result()
        self._thread.shutdown()


class Message(BaseRequestHandler):
    store: Store
    acknowledges: bool

    async def handle(self) -> None:
        data, sock = self.request
        found = PRIORITY.match(data)
        facility, severity = divmod(int(found[1]) if found else DEFAULT_PRIORITY, 8)
        text = data[found.end() if found else 0 :].decode(errors="backslashreplace")
        sender = self.client_address
        match sender:
            case (str(host), _, *_):
                pass
            case _:
                host = "local"
        is_written = await self.store.add((time.time(), host, facility, severity, text))
        # On a Unix socket a sender has a name only if it wants answers.
        if is_written and self.acknowledges and sender:
            # It may have gone without waiting for this one.
            with contextlib.suppress(ConnectionError, FileNotFoundError):
                await sock.sendto(b"ok", sender)


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep syslog messages in a database.")
    parser.add_argument("--acknowledge", action="store_true", help="answer what is on the disk")
    parser.add_argument("database")
    default = ["udp://127.0.0.1:5514", "unix-dgram:///tmp/log.sock"]
    parser.add_argument("binds", nargs="*", default=default, metavar="BIND")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        with contextlib.closing(Store(arguments.database)) as Message.store:
            Message.acknowledges = arguments.acknowledge
            # As many as max_concurrency messages wait to be written, and as many as
            # max_queue behind them; then the kernel's buffer fills, which holds up senders
            # on a Unix socket, and loses what comes over UDP.
            code = run(Message, *arguments.binds, max_packet_size=64 * 1024, max_concurrency=4096)
    except (StartError, sqlite3.Error) as error:
        sys.exit(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()

"""Calls that would stop the loop are found, and told with the way out."""

import pkgutil
import sys
import textwrap

import pytest

from aiosocketserver.migrate.blocking_calls import FUNCTIONS, HARMLESS_FUNCTIONS, blocking_function
from tests.migrate_support import after, declined, migrated, report, told

FILE = "await self.server.run_in_thread(f, ...), where f opens, uses and closes the file"
DATABASE = "await self.server.run_in_thread(f, ...), where f does all that belongs together"
SOCKET = "await asyncio.open_connection(...), or self.server.run_in_thread(f, ...)"
LOCK = "asyncio.Lock with `async with`, if only coroutines take it"

# Each: a statement of handle() in line 9, and what is told of it.
STATEMENTS = {
    "time.sleep(1)": "time.sleep() stops the loop - await asyncio.sleep(...)",
    "nap(1)": "nap() stops the loop - await asyncio.sleep(...)",
    "requests.get(url).json()": "requests.get() stops the loop"
    " - await self.server.run_in_thread(requests.get, ...)",
    "urllib.request.urlopen(url)": "urllib.request.urlopen() stops the loop"
    " - await self.server.run_in_thread(urllib.request.urlopen, ...)",
    "subprocess.run(['x'])": "subprocess.run() stops the loop"
    " - await asyncio.create_subprocess_exec(...)",
    "os.system('x')": "os.system() stops the loop - await asyncio.create_subprocess_shell(...)",
    "open('x').read()": f"open() stops the loop - {FILE}",
    "path.read_text()": f"path.read_text() stops the loop if it is a file's - {FILE}",
    "input()": "input() stops the loop - await self.server.run_in_thread(input, ...)",
    "sqlite3.connect('x')": f"sqlite3.connect() stops the loop - {DATABASE}",
    "cursor.execute('x')": f"cursor.execute() stops the loop if it is a database's - {DATABASE}",
    "cursor.fetchone()": f"cursor.fetchone() stops the loop if it is a database's - {DATABASE}",
    "socket.create_connection(x)": f"socket.create_connection() stops the loop - {SOCKET}",
    "socket.socket()": f"socket.socket() makes a socket that stops the loop - {SOCKET}",
    "socket.gethostbyname(x)": "socket.gethostbyname() stops the loop"
    " - await self.server.run_in_thread(socket.gethostbyname, ...)",
    "peer.recv(10)": f"peer.recv() stops the loop if it is a socket's - {SOCKET}",
    "self.peer.sendall(x)": f"self.peer.sendall() stops the loop if it is a socket's - {SOCKET}",
    "select.select([peer], [], [])": "select.select() stops the loop"
    " - a task for each socket, in an asyncio.TaskGroup",
    "with lock: pass": f"with lock stops the loop while others have the lock - {LOCK}",
    "with self.server.guard: pass": "with self.server.guard stops the loop while others have "
    f"the lock - {LOCK}",
    "with self.server.state_lock: pass": "with self.server.state_lock stops the loop while others "
    f"have the lock - {LOCK}",
    "with self.server.slot: pass": "with self.server.slot stops the loop if it is a lock and "
    f"others have it - {LOCK}",
    "guard.acquire()": f"guard.acquire() stops the loop - {LOCK}",
    "jobs.get()": "jobs.get() stops the loop - asyncio.Queue, if only coroutines use it; else "
    "await self.server.run_in_thread(jobs.get, ...)",
    "self.server.queue.get()": "self.server.queue.get() stops the loop"
    " - asyncio.Queue, if only coroutines use it; else "
    "await self.server.run_in_thread(self.server.queue.get, ...)",
    "thread.join()": "thread.join() stops the loop while it waits"
    " - await self.server.run_in_thread(thread.join, ...)",
    "self.event.wait(5)": "self.event.wait() stops the loop while it waits"
    " - await self.server.run_in_thread(self.event.wait, ...)",
    "sys.exit()": "sys.exit() ends the whole server - return, or raise what handle_error() reports",
    "raise SystemExit(1)": "raise SystemExit(1) ends the whole server"
    " - return, or raise what handle_error() reports",
    "exit()": "exit() ends the whole server - return, or raise what handle_error() reports",
    "self.server.shutdown()": "self.server.shutdown() waits for the handler itself"
    " - threading.Thread(target=self.server.shutdown).start()",
    "self.server.run_on_loop(f)": "self.server.run_on_loop() fails on the loop's own thread"
    " - await it: the handler is in a loop already",
    "asyncio.run(x)": "asyncio.run() fails, because a loop runs already"
    " - await it: the handler is in a loop already",
    "print(data.name)": "data.name is the same for all clients, who share a thread"
    " - contextvars.ContextVar",
}

SOURCE = """\
import asyncio, os, queue, requests, select, socket, socketserver, sqlite3, subprocess, sys
import threading, time, urllib.request
from time import sleep as nap

guard = threading.Lock()
jobs = queue.Queue()
data = threading.local()
class Handler(socketserver.StreamRequestHandler):
    def handle(self): {statement}
"""


@pytest.mark.parametrize("statement", STATEMENTS)
def test_statement(statement: str) -> None:
    declined_report = declined(source(statement))
    assert told(declined_report.blocking) == [f"10: {STATEMENTS[statement]}"]
    assert declined_report.obstacles == ()
    # Forced, the same is told.
    forced = report(source(statement), force=True)
    assert forced.converted
    assert forced.blocking == declined_report.blocking


def source(statement: str) -> str:
    return SOURCE.replace(" {statement}", f"\n        {statement}")


@pytest.mark.parametrize(
    "statement",
    [
        "', '.join(names)",
        "os.path.join('a', 'b')",
        "logging.info('x')",
        "print('x')",
        "self.names.get('x')",
        "self.server.stop_event.is_set()",
        "subprocess.list2cmdline([])",
        "self.request.shutdown(socket.SHUT_WR)",
        "self.request.sendall(self.request.recv(10))",
        "with self.server.block(): pass",
        "jobs.put_nowait(1)",
        "jobs.get(block=False)",
        "guard.acquire(False)",
        "asyncio.Lock()",
    ],
)
def test_what_does_not_block(statement: str) -> None:
    after(source(statement).replace("import asyncio", "import logging, asyncio"))


def test_forced_handler_is_converted() -> None:
    before = """
        import socketserver, time

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                time.sleep(1)
                self.wfile.write(b"x")
        """
    expected = """
        import aiosocketserver
        import time

        class Handler(aiosocketserver.StreamRequestHandler):
            async def handle(self):
                time.sleep(1)
                await self.wfile.write(b"x")
        """
    migration = migrated(before, force=True)
    assert migration.source.decode() == textwrap.dedent(expected)


def test_force_does_not_overcome_what_cannot_be_proved() -> None:
    before = """
        import socketserver, time

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                time.sleep(1)
                dump(self.wfile)
        """
    migration = migrated(before, force=True)
    assert migration.source.decode() == textwrap.dedent(before)
    assert not migration.reports[0].converted


def test_what_the_handler_calls_in_the_same_source_is_looked_into() -> None:
    found = declined("""
        import socketserver, time

        def nap():
            time.sleep(1)

        class Log:
            def __init__(self):
                open("log")

            def entry(self, text):
                self.flush()

            def flush(self):
                nap()

        class Server(socketserver.ThreadingTCPServer):
            def note(self, text):
                open("notes")

            def unused(self):
                open("unused")

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                Log().entry("x")
                self.server.note("x")
        """)
    assert told(found.blocking) == [
        (
            "5: time.sleep() in nap() stops the loop"
            " - await self.server.run_in_thread(Log().entry, ...)"
        ),
        "9: open() in __init__() stops the loop - await self.server.run_in_thread(Log, ...)",
        (
            "19: open() in note() stops the loop"
            " - await self.server.run_in_thread(self.server.note, ...)"
        ),
    ]


def test_functions_in_the_handler_are_looked_into_once() -> None:
    found = declined("""
        import socketserver, time

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                def nap():
                    time.sleep(1)
                nap()
        """)
    assert told(found.blocking) == ["7: time.sleep() stops the loop - await asyncio.sleep(...)"]


def test_coroutines_do_not_block() -> None:
    after("""
        import asyncio, socketserver

        async def tell(text):
            async with lock:
                await peer.send(text)

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                asyncio.run_coroutine_threadsafe(tell(b"x"), self.server.loop)
        """)


def test_a_star_import_hides_nothing() -> None:
    found = declined("""
        from socketserver import *

        class Handler(StreamRequestHandler):
            def handle(self):
                peer.recv(1)
        """)
    assert told(found.blocking) == [f"6: peer.recv() stops the loop if it is a socket's - {SOCKET}"]


def test_a_call_that_is_handed_the_socket_is_told_once() -> None:
    found = declined("""
        import select, socketserver

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                select.select([self.request], [], [])
        """)
    assert found.blocking == ()
    assert told(found.obstacles) == [
        (
            "6: self.request is handed to select.select(), and what is done with it there "
            "cannot be seen - a task for each socket, in an asyncio.TaskGroup"
        )
    ]


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *HARMLESS_FUNCTIONS}))
def test_the_table_names_what_there_is(name: str) -> None:
    if name.partition(".")[0] in sys.stdlib_module_names and name != "telnetlib":
        pkgutil.resolve_name(name)


def test_the_table_knows_a_module_from_one_whose_name_begins_the_same() -> None:
    assert blocking_function(frozenset({"subprocess.run"})) is FUNCTIONS["subprocess"]
    assert blocking_function(frozenset({"subprocessing.run", "timeit.timeit"})) is None

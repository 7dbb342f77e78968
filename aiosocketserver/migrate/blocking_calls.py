"""Calls that do not belong on the loop's thread, and the way out of each.

They stop every client while they wait, or do something else there than in a thread. In a
way out, {function} is what is called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

IN_THREAD = "await self.server.run_in_thread({function}, ...)"

_DATABASE = "await self.server.run_in_thread(f, ...), where f does all that belongs together"
_ENDS = "return, or raise what handle_error() reports"
_FILE = "await self.server.run_in_thread(f, ...), where f opens, uses and closes the file"
_IN_A_LOOP = "await it: the handler is in a loop already"
_LOCK = "asyncio.Lock with `async with`, if only coroutines take it"
_PROCESS = "await asyncio.create_subprocess_exec(...)"
_SHELL = "await asyncio.create_subprocess_shell(...)"
_SOCKET = "await asyncio.open_connection(...), or self.server.run_in_thread(f, ...)"
_TWO_TASKS = "a task for each socket, in an asyncio.TaskGroup"


@dataclass(frozen=True)
class Blocking:
    """What to do instead of a call, and what the call does."""

    way_out: str
    does: str = "stops the loop"


ENDS = Blocking(_ENDS, "ends the whole server")
_NESTED = Blocking(_IN_A_LOOP, "fails, because a loop runs already")
_OFFLOAD = Blocking(IN_THREAD)

# Functions by their dotted names; a module stands for all of its functions.
FUNCTIONS: dict[str, Blocking] = {
    "MySQLdb": Blocking(_DATABASE),
    "asyncio.run": _NESTED,
    "builtins.exit": ENDS,
    "builtins.input": _OFFLOAD,
    "builtins.open": Blocking(_FILE),
    "builtins.quit": ENDS,
    "codecs.open": Blocking(_FILE),
    "concurrent.futures.wait": Blocking("await asyncio.wait(...)"),
    "ftplib": _OFFLOAD,
    "getpass.getpass": _OFFLOAD,
    "glob": _OFFLOAD,
    "http.client": _OFFLOAD,
    "httpx": Blocking("httpx.AsyncClient"),
    "imaplib": _OFFLOAD,
    "io.open": Blocking(_FILE),
    "multiprocessing": _OFFLOAD,
    "mysql.connector": Blocking(_DATABASE),
    "os._exit": ENDS,
    "os.abort": ENDS,
    "os.fork": Blocking(_PROCESS, "copies the loop and every connection"),
    "os.listdir": _OFFLOAD,
    "os.open": Blocking(_FILE),
    "os.popen": Blocking(_SHELL),
    "os.read": _OFFLOAD,
    "os.scandir": _OFFLOAD,
    "os.system": Blocking(_SHELL),
    "os.wait": Blocking(_PROCESS),
    "os.waitpid": Blocking(_PROCESS),
    "os.walk": _OFFLOAD,
    "os.write": _OFFLOAD,
    "paramiko": _OFFLOAD,
    "pexpect": _OFFLOAD,
    "poplib": _OFFLOAD,
    "psycopg": Blocking("psycopg.AsyncConnection"),
    "psycopg2": Blocking(_DATABASE),
    "pymongo": Blocking(_DATABASE),
    "pymysql": Blocking(_DATABASE),
    "redis": Blocking("redis.asyncio"),
    "requests": _OFFLOAD,
    "select": Blocking(_TWO_TASKS),
    "selectors": Blocking(_TWO_TASKS),
    "serial": _OFFLOAD,
    "shelve": Blocking(_FILE),
    "shutil": _OFFLOAD,
    "smtplib": _OFFLOAD,
    "socket.create_connection": Blocking(_SOCKET),
    "socket.getaddrinfo": Blocking("await asyncio.get_running_loop().getaddrinfo(...)"),
    "socket.getfqdn": _OFFLOAD,
    "socket.gethostbyaddr": _OFFLOAD,
    "socket.gethostbyname": _OFFLOAD,
    "socket.gethostbyname_ex": _OFFLOAD,
    "socket.getnameinfo": Blocking("await asyncio.get_running_loop().getnameinfo(...)"),
    "socket.socket": Blocking(_SOCKET, "makes a socket that stops the loop"),
    "sqlite3": Blocking(_DATABASE),
    "subprocess": Blocking(_PROCESS),
    "sys.exit": ENDS,
    "telnetlib": _OFFLOAD,
    "time.sleep": Blocking("await asyncio.sleep(...)"),
    "urllib.request": _OFFLOAD,
    "urllib3": _OFFLOAD,
    "zipfile": Blocking(_FILE),
}

# What of these modules does not block.
HARMLESS_FUNCTIONS = frozenset(
    {
        "glob.escape",
        "multiprocessing.cpu_count",
        "multiprocessing.current_process",
        "shutil.get_terminal_size",
        "subprocess.list2cmdline",
        "urllib.request.Request",
        "urllib.request.quote",
        "urllib.request.unquote",
    }
)

# Methods of whatever object, and with how many arguments they have that meaning.
_IF_SOCKET = Blocking(_SOCKET, "stops the loop if it is a socket's")
_IF_DATABASE = Blocking(_DATABASE, "stops the loop if it is a database's")
_IF_FILE = Blocking(_FILE, "stops the loop if it is a file's")
_WAIT = Blocking(IN_THREAD, "stops the loop while it waits")
_ANY = range(100)

METHODS: dict[str, tuple[range, Blocking]] = {
    "accept": (range(1), _IF_SOCKET),
    "acquire": (_ANY, Blocking(_LOCK)),
    "commit": (range(1), _IF_DATABASE),
    "communicate": (_ANY, Blocking(_PROCESS)),
    "connect": (_ANY, _IF_SOCKET),
    "execute": (_ANY, _IF_DATABASE),
    "executemany": (_ANY, _IF_DATABASE),
    "fetchall": (range(1), _IF_DATABASE),
    "fetchone": (range(1), _IF_DATABASE),
    # A string's has one.
    "join": (range(1), _WAIT),
    "read_bytes": (range(1), _IF_FILE),
    "read_text": (_ANY, _IF_FILE),
    "recv": (_ANY, _IF_SOCKET),
    "recv_into": (_ANY, _IF_SOCKET),
    "recvfrom": (_ANY, _IF_SOCKET),
    "run_on_loop": (_ANY, Blocking(_IN_A_LOOP, "fails on the loop's own thread")),
    "run_until_complete": (_ANY, _NESTED),
    "send": (_ANY, _IF_SOCKET),
    "sendall": (_ANY, _IF_SOCKET),
    "sendto": (_ANY, _IF_SOCKET),
    # A socket's has one.
    "shutdown": (
        range(1),
        Blocking("threading.Thread(target={function}).start()", "waits for the handler itself"),
    ),
    "wait": (range(2), _WAIT),
    "write_bytes": (_ANY, _IF_FILE),
    "write_text": (_ANY, _IF_FILE),
}

# These have an argument, False, for not to wait.
NON_BLOCKING = frozenset({"acquire", "get"})

TAKES_LOCK = Blocking(_LOCK, "stops the loop while others have the lock")
MAY_TAKE_LOCK = Blocking(_LOCK, "stops the loop if it is a lock and others have it")
TAKES_FROM_QUEUE = Blocking("asyncio.Queue, if only coroutines use it; else " + IN_THREAD)
IS_LOCAL = Blocking("contextvars.ContextVar", "is the same for all clients, who share a thread")

# What makes objects of which the use is told by the name that they are given.
LOCKS = frozenset(
    f"{module}.{name}"
    for module in ("threading", "multiprocessing")
    for name in ("BoundedSemaphore", "Condition", "Lock", "RLock", "Semaphore")
)
QUEUES = frozenset(
    {f"queue.{name}" for name in ("LifoQueue", "PriorityQueue", "Queue", "SimpleQueue")}
    | {f"multiprocessing.{name}" for name in ("JoinableQueue", "Queue", "SimpleQueue")}
)
LOCALS = frozenset({"threading.local"})

# And when the source does not say what it is.
LOCK_NAME = re.compile(r"(^|_)(r?lock|mutex|sem|semaphore|cond|condition)\d*$", re.IGNORECASE)
QUEUE_NAME = re.compile(r"(^|_)(q|queue)\d*$", re.IGNORECASE)


def blocking_function(imported: frozenset[str]) -> Blocking | None:
    """What is said of a function, by its dotted names or by its module's."""
    for name in sorted(imported - HARMLESS_FUNCTIONS):
        while name:
            if name in FUNCTIONS:
                return FUNCTIONS[name]
            name = name.rpartition(".")[0]
    return None

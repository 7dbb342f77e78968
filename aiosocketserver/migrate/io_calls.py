"""What is I/O on the objects that a handler holds: which calls are awaited, which are not.

The names are socketserver's; what is said of them are the methods of `StreamSocket`,
`DatagramSocket`, `SocketReader` and `SocketWriter`.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What an expression in a handler stands for, by the name that a user knows it by."""

    NOTHING = "None"
    OTHER = "something else"
    MIXED = "one thing here and another there"
    HANDLER = "self"
    SERVER = "self.server"
    CLASS = "the class"
    SUPER = "super()"
    REQUEST = "self.request"
    READER = "self.rfile"
    WRITER = "self.wfile"
    DATAGRAMS = "the datagram socket"


# The objects whose use is the handler's I/O.
IO = frozenset({Kind.REQUEST, Kind.READER, Kind.WRITER, Kind.DATAGRAMS})

# And what belongs to one handler only.
HANDLERS_OWN = IO | {Kind.HANDLER, Kind.MIXED}

# socketserver's handler classes, and the attributes of each that are I/O.
ATTRIBUTES: dict[str, dict[str, Kind]] = {
    "BaseRequestHandler": {"request": Kind.REQUEST},
    "StreamRequestHandler": {
        "request": Kind.REQUEST,
        "connection": Kind.REQUEST,
        "rfile": Kind.READER,
        "wfile": Kind.WRITER,
    },
    # Its files are in memory.
    "DatagramRequestHandler": {"request": Kind.REQUEST, "socket": Kind.DATAGRAMS},
}

# The methods that the server calls, all of them coroutines.
HOOKS = frozenset({"setup", "handle", "finish"})

AWAITED: dict[Kind, frozenset[str]] = {
    Kind.REQUEST: frozenset(
        {"recv", "recv_into", "recvmsg", "send", "sendall", "sendfile", "sendmsg"}
    ),
    Kind.READER: frozenset({"read", "read1", "readinto", "readline"}),
    Kind.WRITER: frozenset({"flush", "write", "writelines"}),
    Kind.DATAGRAMS: frozenset({"sendto"}),
}

# What says nothing but what it is.
DATA = frozenset({"family", "proto", "type"})

_OF_EACH_SOCKET = DATA | {"getsockname", "getsockopt", "setsockopt"}

# What is there as well, and does not wait.
PLAIN: dict[Kind, frozenset[str]] = {
    Kind.REQUEST: _OF_EACH_SOCKET
    | {
        "close",
        "getblocking",
        "getpeername",
        "gettimeout",
        "setblocking",
        "settimeout",
        "shutdown",
    },
    Kind.READER: frozenset(),
    Kind.WRITER: frozenset(),
    Kind.DATAGRAMS: _OF_EACH_SOCKET,
}

# What to do about methods that are not there; of others there is nothing to say.
WAYS_OUT: dict[tuple[Kind, str], str] = {
    (Kind.REQUEST, "makefile"): "derive from StreamRequestHandler, which has rfile and wfile",
    (Kind.REQUEST, "recvfrom"): "recv(), and self.client_address",
    (Kind.REQUEST, "fileno"): "the loop watches the descriptor, so that nobody else may",
    (Kind.REQUEST, "read"): "recv()",
    (Kind.REQUEST, "write"): "sendall()",
    (Kind.REQUEST, "getpeercert"): "TLS is the server's ssl_context, see the README",
    (Kind.READER, "close"): "the server closes the connection; self.request.close() does it now",
    (Kind.READER, "readlines"): "[line async for line in self.rfile]",
    (Kind.READER, "fileno"): "the loop watches the descriptor, so that nobody else may",
    (Kind.WRITER, "close"): "await self.wfile.flush(); self.request.close() ends the connection",
    (Kind.WRITER, "closed"): "flush() and write() raise OSError once it is closed",
    (Kind.WRITER, "fileno"): "the loop watches the descriptor, so that nobody else may",
}

# Attributes that other handlers have, too.
OF_EACH_HANDLER = frozenset({"request", "rfile", "wfile"})

# Functions that only look at what they are given.
HARMLESS = frozenset(f"builtins.{name}" for name in ("bool", "id", "print", "repr", "str", "type"))
HARMLESS_FOR_HANDLER = HARMLESS | {"builtins.hasattr", "builtins.isinstance"}

# Methods of loggers, which print what they are given.
LOGGING = frozenset({"critical", "debug", "error", "exception", "info", "log", "warn", "warning"})

# Methods of the server that end a connection, of either kind.
ENDING = frozenset({"close_request", "shutdown_request"})

# What to do instead of handing the socket or a file to these.
INSTEAD_OF_HANDING: dict[str, str] = {
    "builtins.getattr": "calling the method by its name",
    "builtins.enumerate": "async for line in self.rfile, with a counter",
    "builtins.iter": "async for line in self.rfile, or while block := await ...",
    "builtins.next": "await self.rfile.readline()",
    "io.TextIOWrapper": "decode() what was read, encode() what is written",
    "json.load": "json.loads() of what was read",
    "pickle.load": "pickle.loads() of what was read",
    "select.select": "a task for each socket, in an asyncio.TaskGroup",
    "shutil.copyfileobj": "await self.request.sendfile(file), or a loop that awaits each write()",
}

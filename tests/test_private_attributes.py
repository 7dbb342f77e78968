"""Tests use what is public; the private attributes that they touch are listed here, and why."""

import ast
from pathlib import Path

import aiosocketserver

PACKAGE = Path(aiosocketserver.__file__).parent
TESTS = Path(__file__).parent

# The name of the attribute, and what cannot be seen, or done, without it.
ALLOWED = {
    # Not ours, but of the same name.
    "_current_frames": "of the module sys",
    "_exit": "of the module os",
    "_get_running_loop": "of asyncio",
    "_log_destroy_pending": "of a task of asyncio's",
    # Of socketserver, which programs reach into.
    "_BaseServer__is_shut_down": "of socketserver",
    "_BaseServer__shutdown_request": "of socketserver",
    "_handle_request_noblock": "of socketserver",
    # What a server holds inside.
    "_aiosocketserver": "which `serve_forever` runs on a compat server, and on which loop",
    "_connections": "how many connections linger after their request has ended",
    "_counts": "that the hosts of connections that have ended are forgotten",
    "_deadlines": "that the timers of requests that have ended are gone",
    "_ended": "the moment at which compat's serving ends",
    "_paused": "the moment at which compat takes nothing more",
    "_requests": "observers, as the access log is one; and references, for leaks",
    "_serving": "the moment at which a server accepts",
    "_stages": "when the sockets of requests that have ended are closed",
    "_threads": "socketserver's own attribute; and the pool, to have it fail",
    "_watch": "that no timer for certificates is left",
    # What a connection does at a given moment, which tests have to wait for or to bring about.
    "_abort": "a reset by the server, whose callers are far away",
    "_credit": "the turn of one connection, to have it end here and now",
    "_read_waiter": "that a handler waits for input, of a server in another thread",
    "_received": "how much has come, of a server in another thread",
    "_send_pending": "to have what was written leave now",
    "_sock": "the kernel's socket, to fill it",
    "_stall": "that no timer is left",
    "_stop_watching": "a socket that is closed behind the back of its connection",
    "_timers": "the same",
    "_traffic": "the counters of one connection, to compare both cores",
    "_unregister_writer": "a socket that is closed behind the back of its connection",
    "_waits_for": "what a connection waits for, to compare both cores",
    "_write": "a write as wfile's, without a coroutine",
    "_write_error": "that an error waits for the next write",
    "_writer_registered": "that the kernel takes nothing more for now",
    # Units that are tested by themselves.
    "_Worker": "a thread of the pool, to have its start fail",
    "_buffer": "what a file has read ahead",
    "_closing": "of a TLS client that tests use",
    "_crews": "the idle threads of a pool",
    "_current": "the worker of a slot, in the service's parent",
    "_data": "how a receive buffer keeps its bytes",
    "_end": "the end of the service's parent",
    "_leave": "a thread that leaves the pool as a job comes",
    "_lock": "of a pool, to have the other thread wait",
    "_replace": "in the service's parent",
    "_restarting": "the workers that wait for their start",
    "_start_later": "in the service's parent",
    "_worker": "the thread of a job",
}


def names_of_ours() -> set[str]:
    """Private names that the package defines or uses."""
    found = set()
    # Behind a link, which rglob() does not follow.
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE / "compat").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Attribute(attr=name):
                    found.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    found.add(name)
                case ast.ClassDef(name=name):
                    found.add(name)
                case _:
                    pass
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def touched() -> dict[str, str]:
    """Those of them that a test touches on another object than itself, with one place each."""
    ours = names_of_ours()
    found = {}
    for path in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Attribute(value=ast.Name(id="self" | "cls")):
                    pass
                case ast.Attribute(attr=name) if name in ours:
                    found[name] = f"{path.relative_to(TESTS)}:{node.lineno}"
                case _:
                    pass
    return found


def test_private_attributes_are_touched_for_a_reason_only() -> None:
    found = touched()
    assert {name: place for name, place in found.items() if name not in ALLOWED} == {}
    assert ALLOWED.keys() - found.keys() == set()

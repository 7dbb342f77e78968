"""Imported by each Python process that the tests of another project start, through a .pth file.

tools/foreign_tests.py says by variables what is to happen: FOREIGN_WAY is how the servers are
run, and FOREIGN_LOG names a file that gets a line for each request, and for each address outside
of this machine. Without them this does nothing.

compat's own `--subprocesses` is not enough here: Werkzeug's tests give the servers that they start
a PYTHONPATH of their own.
"""

import ipaddress
import os
import sys


def _log(*words: str) -> None:
    line = " ".join(words) + "\n"
    # One write, at the end of the file whoever else writes there, and not through a buffer that a
    # child which is ended by os._exit() would lose.
    descriptor = os.open(os.environ["FOREIGN_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _log_requests() -> None:
    """Have each handler say whose server has made it, and what loops there may be."""
    # Not where install() would find it, which tells of those that hold it.
    import socketserver

    handler_class, server_class = socketserver.BaseRequestHandler, socketserver.BaseServer
    original = handler_class.__init__

    def log_and_handle(self, request, client_address, server):  # type: ignore[no-untyped-def]
        # Some tests have a handler made for what is no server at all.
        if isinstance(server, server_class):
            bases = {base.__module__.partition(".")[0] for base in type(server).__mro__}
            module = "compat" if "aiosocketserver" in bases else "socketserver"
            loop = "uvloop" if "uvloop" in sys.modules else "asyncio"
            _log("request", module, loop)
        original(self, request, client_address, server)

    handler_class.__init__ = log_and_handle  # type: ignore[method-assign]


def _is_local(address: object) -> bool:
    if not isinstance(address, tuple):
        # A Unix socket's.
        return True
    host = str(address[0]).partition("%")[0]
    try:
        return host in ("", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _watch_addresses(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("socket.connect", "socket.sendto") and not _is_local(arguments[1]):
        _log("outside", event, repr(arguments[1]))
        raise OSError(f"{arguments[1]} is not this machine, where tests have to stay")


if "FOREIGN_LOG" in os.environ:
    _log_requests()
    sys.addaudithook(_watch_addresses)
    # Where compat's command line is at work, it does this by itself.
    if (
        os.environ["FOREIGN_WAY"] != "socketserver"
        and "aiosocketserver.compat" not in sys.orig_argv
    ):
        from aiosocketserver.compat import install

        install()

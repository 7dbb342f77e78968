"""The public names, and what importing them loads."""

import subprocess
import sys

import aiosocketserver

PUBLIC = {
    "BaseRequestHandler",
    "BaseServer",
    "CertificateFiles",
    "DatagramRequestHandler",
    "DatagramSocket",
    "ForkingMixIn",
    "ForkingTCPServer",
    "GreenletMixIn",
    "GreenletSocket",
    "GreenletTCPServer",
    "GreenletUnixStreamServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "LimitExceeded",
    "ProxyHeader",
    "ServerOptions",
    "ShutdownReport",
    "SocketReader",
    "SocketWriter",
    "StartError",
    "Statistics",
    "StreamRequestHandler",
    "StreamSocket",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "TimedOut",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "proxy_header",
    "request_id",
    "run",
    "serving",
    "UnixDatagramServer",
    "UnixStreamServer",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_public_names() -> None:
    assert sorted(aiosocketserver.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(aiosocketserver, name).__doc__


def test_every_name_of_socketserver_is_here() -> None:
    import socketserver

    assert set(socketserver.__all__) <= PUBLIC


def test_import_loads_no_part_that_the_core_does_not_need() -> None:
    # asyncio imports ssl itself, and does without it where Python was built so.
    code = (
        "import sys; sys.modules['ssl'] = sys.modules['_ssl'] = None; import aiosocketserver; "
        "print([name for name in sys.modules "
        "if name.startswith(('aiosocketserver.deploy', 'aiosocketserver.compat', 'uvloop'))])"
    )
    assert run(code) == "[]"


def test_import_starts_no_thread_and_opens_no_descriptor() -> None:
    code = (
        "import os, threading, asyncio; before = os.listdir('/dev/fd'); import aiosocketserver; "
        "print(threading.active_count(), len(os.listdir('/dev/fd')) - len(before))"
    )
    assert run(code) == "1 0"

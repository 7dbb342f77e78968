"""Libraries as they are, on compat: `python -m aiosocketserver.compat`, and no import changed.

Each program runs under the real socketserver too, which is the measure.
"""

import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType
from typing import Any

import pytest

from tests.compat_support import BOUND, ask, connect, receive_all
from tests.library_support import ENGINES, assert_on_engine, run_program, running

programs: list[Callable[[], None]] = []


def program(function: Callable[[], None]) -> Callable[[], None]:
    programs.append(function)
    return function


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("run", programs, ids=lambda run: run.__name__)
def test_library_is_served(run: Callable[[], None], engine: str) -> None:
    assert isinstance(run, FunctionType)
    run_program(run, engine)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=BOUND) as answer:
        text: bytes = answer.read()
        return text.decode()


def url_of(server: Any) -> str:
    host, port = server.server_address
    return f"http://{host}:{port}/"


def together(function: Callable[[], str], times: int) -> list[str]:
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: function(), range(times)))


class Meeting:
    """A WSGI application whose requests wait for one another: they have to run at once."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self._barrier.wait(BOUND)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
        return [b"met"]


@program
def werkzeug_threaded_server() -> None:
    from werkzeug.serving import make_server

    with running(make_server("127.0.0.1", 0, Meeting(4), threaded=True)) as server:
        assert together(lambda: get(url_of(server)), 4) == ["met"] * 4


@program
def werkzeug_forking_server() -> None:
    from werkzeug.serving import make_server

    def pid(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        import os

        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]

    with running(make_server("127.0.0.1", 0, pid, processes=4)) as server:
        pids = together(lambda: get(url_of(server)), 8)
    assert len(set(pids)) == 8


@program
def werkzeug_streams_an_answer() -> None:
    from werkzeug.serving import make_server

    go_on = threading.Event()

    def stream(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first"
        assert go_on.wait(BOUND)
        yield b"second"

    with running(make_server("127.0.0.1", 0, stream, threaded=True)) as server:
        url = url_of(server)
        with urllib.request.urlopen(url, timeout=BOUND) as answer:
            assert answer.read(5) == b"first"
            go_on.set()
            assert answer.read() == b"second"


@program
def prometheus_exporter() -> None:
    from prometheus_client import CollectorRegistry, Counter, start_http_server

    registry = CollectorRegistry()
    Counter("visits", "Visits", registry=registry).inc(3)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    assert_on_engine(server)
    url = url_of(server) + "metrics"
    for text in together(lambda: get(url), 8):
        assert "visits_total 3.0" in text
    server.shutdown()
    thread.join(BOUND)
    assert not thread.is_alive()
    server.server_close()


def dns_question() -> bytes:
    from dnslib import DNSRecord  # type: ignore[import-untyped]

    return bytes(DNSRecord.question("example.org").pack())


def dns_answer(data: bytes) -> str:
    from dnslib import DNSRecord

    return str(DNSRecord.parse(data).a.rdata)


def dns_server(**options: Any) -> Any:
    from dnslib import RR
    from dnslib.server import (  # type: ignore[import-untyped]
        BaseResolver,
        DNSLogger,
        DNSServer,
    )

    class Resolver(BaseResolver):  # type: ignore[misc]
        def resolve(self, request: Any, handler: Any) -> Any:
            reply = request.reply()
            reply.add_answer(*RR.fromZone("example.org 60 A 192.0.2.7"))
            return reply

    quiet = DNSLogger(logf=lambda text: None)
    return DNSServer(Resolver(), port=0, address="127.0.0.1", logger=quiet, **options)


@program
def dnslib_udp_server() -> None:
    dns = dns_server()
    assert_on_engine(dns.server)
    dns.start_thread()
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(BOUND)
        client.connect(dns.server.server_address)
        for _ in range(100):
            client.send(dns_question())
            assert dns_answer(client.recv(2048)) == "192.0.2.7"
    dns.stop()
    dns.thread.join(BOUND)
    assert not dns.isAlive()
    # dnslib itself never closes it.
    dns.server.server_close()


@program
def dnslib_tcp_server() -> None:
    dns = dns_server(tcp=True)
    assert_on_engine(dns.server)
    dns.start_thread()
    question = dns_question()
    framed = len(question).to_bytes(2, "big") + question
    for _ in range(20):
        with connect(dns.server.server_address) as client:
            client.sendall(framed)
            assert dns_answer(receive_all(client)[2:]) == "192.0.2.7"
    dns.stop()
    dns.thread.join(BOUND)
    assert not dns.isAlive()
    # dnslib itself never closes it.
    dns.server.server_close()


@program
def logging_configuration_listener() -> None:
    import logging
    import logging.config

    thread: Any = logging.config.listen(0)
    thread.start()
    assert thread.ready.wait(BOUND)
    thread.ready.clear()
    config = {"version": 1, "loggers": {"configured": {"level": "CRITICAL"}}}
    text = json.dumps(config).encode()
    with connect(("127.0.0.1", thread.port)) as client:
        client.sendall(len(text).to_bytes(4, "big") + text)
        # Set again by the handler.
        assert thread.ready.wait(BOUND)
    assert logging.getLogger("configured").level == logging.CRITICAL
    assert_on_engine(vars(logging.config)["_listener"])
    logging.config.stopListening()
    thread.join(BOUND)
    assert not thread.is_alive()


@program
def xmlrpc_server() -> None:
    from xmlrpc.client import Fault, MultiCall, ServerProxy
    from xmlrpc.server import SimpleXMLRPCServer

    server: Any = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False, allow_none=True)
    server.register_introspection_functions()
    server.register_multicall_functions()
    server.register_function(pow)
    with running(server), ServerProxy(url_of(server)) as proxy:
        assert proxy.pow(2, 10) == 1024
        assert "pow" in proxy.system.listMethods()  # type: ignore[operator]
        calls: Any = MultiCall(proxy)
        calls.pow(2, 3)
        calls.pow(3, 2)
        assert list(calls()) == [8, 9]
        with pytest.raises(Fault, match="TypeError"):
            proxy.pow("a", "b")


@program
def xmlrpc_server_with_threads() -> None:
    from socketserver import ThreadingMixIn
    from xmlrpc.client import ServerProxy
    from xmlrpc.server import SimpleXMLRPCServer

    class ThreadingXMLRPCServer(ThreadingMixIn, SimpleXMLRPCServer):
        pass

    barrier = threading.Barrier(4)

    def meet() -> str:
        barrier.wait(BOUND)
        return "met"

    server = ThreadingXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(meet)

    def call() -> str:
        with ServerProxy(url_of(server)) as proxy:
            return str(proxy.meet())

    with running(server):
        assert together(call, 4) == ["met"] * 4


@program
def xmlrpc_server_with_documentation() -> None:
    from xmlrpc.client import ServerProxy
    from xmlrpc.server import DocXMLRPCServer

    def double(number: Any) -> Any:
        """Twice the number."""
        return 2 * number

    server = DocXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(double)
    with running(server):
        url = url_of(server)
        assert "Twice&nbsp;the&nbsp;number." in get(url)
        with ServerProxy(url) as proxy:
            assert proxy.double(21) == 42


def validated(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode(), b" ", body]


@program
def wsgiref_application() -> None:
    from wsgiref.simple_server import make_server
    from wsgiref.validate import validator

    with running(make_server("127.0.0.1", 0, validator(validated))) as server:
        url = url_of(server) + "path"
        assert get(url) == "/path "
        with urllib.request.urlopen(url, b"body", timeout=BOUND) as answer:
            assert answer.read() == b"/path body"


@program
def wsgiref_application_in_threads() -> None:
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class ThreadingWSGIServer(ThreadingMixIn, WSGIServer):
        pass

    with running(
        make_server("127.0.0.1", 0, Meeting(4), server_class=ThreadingWSGIServer)
    ) as server:
        assert together(lambda: get(url_of(server)), 4) == ["met"] * 4


@program
def http_server_with_files() -> None:
    import functools
    import pathlib
    import subprocess
    import tempfile
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    with tempfile.TemporaryDirectory() as folder:
        content = bytes(range(256)) * 4096
        pathlib.Path(folder, "file").write_bytes(content)
        handler = functools.partial(SimpleHTTPRequestHandler, directory=folder)
        with running(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
            url = url_of(server)
            command = ["curl", "--silent", "--fail", "--max-time", str(BOUND)]
            assert subprocess.check_output([*command, url + "file"]) == content
            assert b'href="file"' in subprocess.check_output([*command, url])
            # curl's code for an answer of 400 or more.
            assert subprocess.call([*command, url + "none"]) == 22


@program
def http_server_that_keeps_connections() -> None:
    from http.client import HTTPConnection
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as server:
        client = HTTPConnection("127.0.0.1", server.server_port, timeout=BOUND)
        for size in (0, 1, 1_000_000):
            client.request("POST", "/", bytes(size), {"Expect": "100-continue"})
            assert len(client.getresponse().read()) == size
        client.close()


@program
def handler_errors_are_told_to_the_librarys_handle_error() -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            raise ZeroDivisionError

    told: list[str] = []

    class Server(HTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            import sys

            told.append(type(sys.exception()).__name__)

    with running(Server(("127.0.0.1", 0), Handler)) as server:
        assert ask(server.server_address) == b""
    assert told == ["ZeroDivisionError"]


@program
def server_whose_server_close_closes_its_socket_only() -> None:
    """As pymodbus's: reused threads end nevertheless."""
    from socketserver import StreamRequestHandler, ThreadingTCPServer

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    class Server(ThreadingTCPServer):
        def server_close(self) -> None:
            self.socket.close()

    with running(Server(("127.0.0.1", 0), Handler)) as server:
        assert ask(server.server_address, b"line\n") == b"line\n"
    for thread in set(threading.enumerate()) - {threading.current_thread()}:
        # Within less time than an idle thread waits for its next job.
        thread.join(5)
        assert not thread.is_alive()

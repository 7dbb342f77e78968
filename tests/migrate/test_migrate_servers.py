"""What the servers in a source mean for its handlers: obstacles, and notes of what differs."""

import textwrap

import pytest

from tests.migrate_support import after, declined, report, told

HANDLER = """
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"x")

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
"""

TIMEOUT = (
    "a time-out that the socket has when it is accepted does not come to a coroutine handler"
    " - self.request.settimeout() in setup(), or `timeout` of a StreamRequestHandler"
)
TLS = (
    "a server with TLS sockets of its own cannot have coroutine handlers"
    " - aiosocketserver's own servers have ssl_context, see the README"
)


def source(rest: str) -> str:
    """A source with a handler and a threading server, and from line 9 on what comes behind it:

    a method of the server class, or statements of the module.
    """
    rest = textwrap.dedent(rest)
    if rest.startswith("\ndef "):
        rest = textwrap.indent(rest, "    ")
    return f"import socket, socketserver, ssl{HANDLER}{rest}"


OBSTACLES = {
    "process_request_thread": (
        """
            def process_request_thread(self, request, client_address):
                super().process_request_thread(request, client_address)
        """,
        ["9: process_request_thread() is not called for coroutine handlers"],
    ),
    "a pool": (
        """
            def process_request(self, request, client_address):
                self.jobs.put((request, client_address))
        """,
        [
            "9: this process_request() does not have the base class's serve the request",
            "10: process_request() keeps or hands on request, which the loop now uses",
        ],
    ),
    "a table of sockets": (
        """
            def process_request(self, request, client_address):
                self.clients.append(request)
                super().process_request(request, client_address)
        """,
        ["10: process_request() keeps or hands on request, which the loop now uses"],
    ),
    "after the request": (
        """
            def finish_request(self, request, client_address):
                super().finish_request(request, client_address)
                print("served", client_address)
        """,
        [
            (
                "9: what finish_request() does after making the handler comes before that runs"
                " - setup() and finish() of the handler"
            )
        ],
    ),
    "a time-out of accepted sockets": (
        """
            def get_request(self):
                request, client_address = super().get_request()
                request.settimeout(10)
                return request, client_address
        """,
        [f"11: {TIMEOUT}"],
    ),
    "a time-out of all sockets": (
        """
        socket.setdefaulttimeout(10)
        """,
        [f"9: {TIMEOUT}"],
    ),
    "TLS by hand": (
        """
        server = Server(("", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        """,
        [f"10: {TLS}"],
    ),
    "one request after the other": (
        """
        server = Server(("", 0), Handler)
        while running:
            server.handle_request()
        """,
        [
            (
                "11: a loop of handle_request() serves coroutine handlers one after the other"
                " - serve_forever()"
            )
        ],
    ),
    "a factory": (
        """
        server = Server(("", 0), lambda *args: Handler(*args))
        """,
        [
            (
                "9: Handler() makes a handler where nobody awaits it"
                " - give the class itself to the server, or a functools.partial of it"
            )
        ],
    ),
    "a method from outside": (
        """
        Handler.handle(None)
        """,
        ["9: Handler.handle waits for the client, and is used from outside"],
    ),
    "a server of http.server": (
        """
        from http.server import HTTPServer
        server = HTTPServer(("", 0), Handler)
        """,
        [
            (
                "10: http.server.HTTPServer is not one of compat's, and does not await handlers"
                " - derive a class from compat's ThreadingMixIn"
            )
        ],
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacle(name: str) -> None:
    rest, expected = OBSTACLES[name]
    assert told(declined(source(rest)).obstacles) == expected


# What does not stand in the way.
HARMLESS = {
    "logging": """
            def process_request(self, request, client_address):
                logger.debug("process_request(%s)", request)
                return socketserver.ThreadingTCPServer.process_request(
                    self, request, client_address)
        """,
    "extra arguments": """
            def finish_request(self, request, client_address):
                "Made with more."
                self.count += 1
                self.RequestHandlerClass(request, client_address, self, extra=1)
        """,
    "a handler by its name": """
            def finish_request(self, request, client_address):
                return Handler(request, client_address, self)
        """,
    "an allow-list": """
            def verify_request(self, request, client_address):
                return request.getpeername()[0] in self.allowed
        """,
    "a client with TLS": """
        context.wrap_socket(socket.socket(), server_side=False)
        """,
    "one request": """
        server = Server(("", 0), Handler)
        server.handle_request()
        """,
    "a partial": """
        import functools
        server = Server(("", 0), functools.partial(Handler, 1))
        """,
    "settings of the class": """
        Handler.timeout = 5
        """,
    "a mixture that is served by compat": """
        from http.server import HTTPServer
        class Mixed(socketserver.ThreadingMixIn, HTTPServer):
            pass
        server = Mixed(("", 0), Handler)
        """,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_no_obstacle(name: str) -> None:
    after(source(HARMLESS[name]))


def test_a_loop_of_requests_on_a_server_that_has_always_served_one_at_a_time() -> None:
    after("""
        import socketserver

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        server = socketserver.TCPServer(("", 0), Handler)
        while True:
            server.handle_request()
        """)


def test_the_request_of_a_datagram_server_may_be_looked_at() -> None:
    after("""
        import socketserver

        class Handler(socketserver.DatagramRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        class Server(socketserver.UDPServer):
            def verify_request(self, request, client_address):
                return is_valid(request)
        """)


# A server, and what is noted of a handler on it.
NOTES = {
    'socketserver.ThreadingTCPServer(("", 0), Handler)': [],
    'socketserver.ThreadingTCPServer(("", 0), functools.partial(Handler))': [],
    'socketserver.TCPServer(("", 0), Handler)': [
        "10: Handler served one client at a time, and now serves all at the same time"
    ],
    'socketserver.ForkingTCPServer(("", 0), Handler)': [
        "6: os.getpid() is the server's process for all clients",
        "10: Handler was served in a process of its own each time, and now shares the server's",
    ],
    'aiosocketserver.run(Handler, "tcp://127.0.0.1:0")': [],
    'framework.start(("", 0), Handler)': [
        "10: Handler is given to framework.start, whose server has to be compat's"
    ],
    'Own(("", 0))': [
        "16: Handler served one client at a time, and now serves all at the same time"
    ],
}


@pytest.mark.parametrize("server", NOTES)
def test_note(server: str) -> None:
    own = """
        class Own(socketserver.UDPServer):
            def __init__(self, address):
                super().__init__(address, Handler)
        """
    found = report(
        "import aiosocketserver, framework, functools, os, socketserver; "
        "socketserver.BaseServer\n\n"
        "class Handler(socketserver.BaseRequestHandler):\n"
        "    def handle(self):\n"
        "        print(self.client_address)\n"
        "        print(os.getpid())\n\n\n\n"
        f"server = {server}\n\n\n" + (textwrap.dedent(own) if server.startswith("Own") else "")
    )
    assert found.converted
    assert told(found.notes) == NOTES[server]


def test_notes_of_what_the_handler_sees_and_calls() -> None:
    found = report("""
        import socketserver, threading
        from mine import *
        from mine import parse

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                try:
                    self.wfile.write(b"x")
                except:
                    print(threading.current_thread().name)
                try:
                    self.wfile.write(b"x")
                except BaseException:
                    raise
                server = self.server
                self.server.model.update(parse(transform(b"x")))
                server.known()
                server.unknown()

        class Server(socketserver.ThreadingTCPServer):
            def known(self):
                pass
        """)
    assert found.converted
    assert told(found.notes) == [
        (
            "6: not looked into, and must not block: self.server.model.update(), parse(), "
            "transform(), server.unknown()"
        ),
        (
            "10: this catches the cancellation, too, by which a server ends its handlers"
            " - except Exception"
        ),
        "11: threading.current_thread() is the server's thread for all clients",
    ]


def test_a_note_of_what_time_outs_do_to_rfile() -> None:
    found = report("""
        import socket, socketserver

        class Handler(socketserver.StreamRequestHandler):
            timeout = 5

            def handle(self):
                try:
                    self.rfile.readline()
                except socket.timeout:
                    self.wfile.write(b"are you there?")
                try:
                    self.request.recv(10)
                except TimeoutError:
                    pass
                try:
                    for line in self.rfile:
                        pass
                except TimeoutError:
                    pass

        server = socketserver.ThreadingTCPServer(("", 0), Handler)
        """)
    assert found.converted
    assert told(found.notes) == [
        f"{line}: after a time-out rfile goes on, where it has raised OSError from then on"
        for line in (10, 19)
    ]


def test_a_handler_without_a_server_in_its_source() -> None:
    found = report("""
        import socketserver

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")
        """)
    assert found.converted
    assert told(found.notes) == [
        (
            "4: no server here: whatever serves it has to be compat's or aiosocketserver's"
            " - from aiosocketserver import compat as socketserver, where the server is made"
        )
    ]

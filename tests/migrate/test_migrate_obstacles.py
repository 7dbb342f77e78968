"""What cannot be proved is declined, with the line and the reason."""

import pytest

from tests.migrate.test_migrate_conversion import in_class
from tests.migrate_support import declined, told

MIXED = "is sometimes the handler's own, and sometimes something else"
UNSEEN = "and what is done with it there cannot be seen"

# Each: the methods of a StreamRequestHandler, and what is told; the first method's line is 5.
STREAM: dict[str, tuple[str, list[str]]] = {
    "the socket is handed to a function": (
        """
        def handle(self):
            send(self.request, b"x")
        """,
        [f"6: self.request is handed to send(), {UNSEEN}"],
    ),
    "so is a file, under a local name": (
        """
        def handle(self):
            output = self.wfile
            print(b"x", file=output)
            write_all([output])
        """,
        [f"8: output (self.wfile) is handed to write_all(), {UNSEEN}"],
    ),
    "shutil": (
        """
        def handle(self):
            import shutil
            shutil.copyfileobj(open("x", "rb"), self.wfile)
        """,
        [
            (
                f"7: self.wfile is handed to shutil.copyfileobj(), {UNSEEN}"
                " - await self.request.sendfile(file), or a loop that awaits each write()"
            )
        ],
    ),
    "through a method of its own": (
        """
        def handle(self):
            self.copy(self.wfile)

        def copy(self, target):
            dump(b"x", target)
        """,
        [f"9: target (self.wfile) is handed to dump(), {UNSEEN}"],
    ),
    "a reader of values": (
        """
        def handle(self):
            import json
            print(json.load(self.rfile))
        """,
        [f"7: self.rfile is handed to json.load(), {UNSEEN} - json.loads() of what was read"],
    ),
    "in a container": (
        """
        def handle(self):
            self.server.clients[self.client_address] = self.request
            self.server.names[self.request] = "x"
            self.server.all.append((self.request, 1))
        """,
        [
            f"6: self.request is kept in self.server.clients[self.client_address], {UNSEEN}",
            "7: self.request is used in a way that cannot be followed",
            f"8: self.request is handed to self.server.all.append(), {UNSEEN}",
        ],
    ),
    "in a global name": (
        """
        def handle(self):
            global client
            client = self.request
        """,
        [f"7: self.request is kept in client, {UNSEEN}"],
    ),
    "returned": (
        """
        def handle(self):
            self.conn().sendall(b"x")

        def conn(self):
            return self.request
        """,
        [f"9: self.request is returned, {UNSEEN}"],
    ),
    "in an expression": (
        """
        def handle(self):
            conn = self.request or None
            with self.request:
                pass
        """,
        [
            "6: self.request is used in a way that cannot be followed",
            "7: self.request is used in a way that cannot be followed",
        ],
    ),
    "a name for two things": (
        """
        def handle(self):
            sock = self.request
            sock = connect()
            sock.sendall(b"x")
        """,
        [f"8: sock {MIXED}"],
    ),
    "an attribute for two things": (
        """
        def setup(self):
            super().setup()
            self.out = self.wfile

        def handle(self):
            self.out.write(b"x")
            self.out = Buffer()
        """,
        [f"10: self.out {MIXED}"],
    ),
    "a parameter for two things": (
        """
        def handle(self):
            self.send(self.request)
            self.send(other)

        def send(self, sock):
            sock.sendall(b"x")
        """,
        [f"10: sock {MIXED}"],
    ),
    "self is set to something else": (
        """
        def handle(self):
            self.wfile.write(b"x")
            self = other
        """,
        [f"6: self {MIXED}"],
    ),
    "a parameter is set to something else": (
        """
        def handle(self):
            self.send(self.request)

        def send(self, sock):
            sock = wrapped(sock)
            sock.sendall(b"x")
        """,
        [f"9: sock {MIXED}", f"10: sock {MIXED}"],
    ),
    "other handlers": (
        """
        out = property(lambda handler: handler.wfile)

        def handle(self):
            self.out.write(b"x")
            for each in self.server.handlers:
                each.request.sendall(b"x")
        """,
        ["5: nobody can tell what handler.wfile is", "10: nobody can tell what each.request is"],
    ),
    "a function of the class that is not defined in it": (
        """
        reply = reply_to

        def handle(self):
            self.reply(b"x")
        """,
        ["8: self.reply() is not defined in the class, and what it does cannot be seen"],
    ),
    "too many arguments to follow": (
        """
        def handle(self):
            self.send(*[1], self.request)

        def send(self, *args):
            pass
        """,
        [f"6: self.request is handed to self.send(), {UNSEEN}"],
    ),
    "arguments that are unpacked": (
        """
        def handle(self):
            self.send(*numbers, self.request)

        def send(self, first, sock):
            sock.sendall(b"x")
        """,
        [f"6: self.request is handed to self.send(), {UNSEEN}"],
    ),
    "a static method": (
        """
        def handle(self):
            self.send(self.request, b"x")

        @staticmethod
        def send(sock, data):
            sock.sendall(data)
        """,
        [f"6: self.request is handed to self.send(), {UNSEEN}"],
    ),
    "what another than the server ends": (
        """
        def handle(self):
            peer.close_request(self.request)
        """,
        [f"6: self.request is handed to peer.close_request(), {UNSEEN}"],
    ),
    "a file or the socket is replaced": (
        """
        def setup(self):
            self.rfile = Buffer()
            self.request = None
            self.wfile.extra = 1

        def handle(self):
            pass
        """,
        [
            "6: self.rfile is replaced by something else",
            "7: self.request is replaced by something else",
            "8: self.wfile.extra cannot be set",
        ],
    ),
    "what a coroutine handler's objects do not have": (
        """
        def handle(self):
            file = self.request.makefile()
            data, address = self.request.recvfrom(10)
            print(self.request.fileno(), self.rfile.peek(1))
            lines = self.rfile.readlines()
            if not self.wfile.closed:
                self.wfile.close()
        """,
        [
            (
                "6: self.request of a coroutine handler has no makefile"
                " - derive from StreamRequestHandler, which has rfile and wfile"
            ),
            (
                "7: self.request of a coroutine handler has no recvfrom"
                " - recv(), and self.client_address"
            ),
            (
                "8: self.request of a coroutine handler has no fileno"
                " - the loop watches the descriptor, so that nobody else may"
            ),
            "8: self.rfile of a coroutine handler has no peek",
            (
                "9: self.rfile of a coroutine handler has no readlines"
                " - [line async for line in self.rfile]"
            ),
            (
                "10: self.wfile of a coroutine handler has no closed"
                " - flush() and write() raise OSError once it is closed"
            ),
            (
                "11: self.wfile of a coroutine handler has no close"
                " - await self.wfile.flush(); self.request.close() ends the connection"
            ),
        ],
    ),
    "lambdas": (
        """
        def handle(self):
            for block in iter(lambda: self.request.recv(1024), b""):
                pass
            later(10, lambda: self.request.close())
            later(10, lambda: self.reply())

        def reply(self):
            self.wfile.write(b"x")
        """,
        [
            (
                "6: self.request.recv(1024) is in a lambda, which cannot await"
                " - while block := await self.request.recv(1024): ..."
            ),
            "8: self.request.close() is in a lambda, which another thread may call",
            "9: self.reply() waits for the client and is in a lambda, which cannot await",
        ],
    ),
    "an iterator of calls": (
        """
        def handle(self):
            for line in iter(self.rfile.readline, b""):
                pass
            for number, line in enumerate(self.rfile):
                pass
        """,
        [
            (
                f"6: self.rfile.readline is handed to iter(), {UNSEEN}"
                " - async for line in self.rfile, or while block := await ..."
            ),
            (
                f"8: self.rfile is handed to enumerate(), {UNSEEN}"
                " - async for line in self.rfile, with a counter"
            ),
        ],
    ),
    "generator expressions": (
        """
        def handle(self):
            print(b"".join(self.rfile.read(1) for _ in range(3)))
            print(list(line for line in self.rfile))
        """,
        [
            "6: self.rfile.read(1) is in a generator expression, which cannot await",
            "7: self.rfile is in a generator expression, which cannot await",
        ],
    ),
    "generators": (
        """
        def handle(self):
            for message in self.messages():
                print(message)

        def messages(self):
            yield self.rfile.readline()
        """,
        [
            (
                "10: messages() is a generator that waits for the client"
                " - collect what it yields in a list"
            )
        ],
    ),
    "a class in a method": (
        """
        def handle(self):
            wfile = self.wfile

            class Log:
                def emit(self, text):
                    wfile.write(text)
        """,
        ["10: wfile.write(text) is in a method of another class, which cannot await"],
    ),
    "a method as a callback": (
        """
        def handle(self):
            Thread(target=self.send).start()
            commands = {"quit": self.quit, "help": self.help}

        def send(self):
            self.wfile.write(b"x")

        def quit(self):
            self.request.close()

        def help(self):
            return "nobody helps"
        """,
        [
            (
                "6: self.send uses the socket and is not called here, so that nobody can tell by "
                "whom it is"
            ),
            (
                "7: self.quit uses the socket and is not called here, so that nobody can tell by "
                "whom it is"
            ),
        ],
    ),
    "a method in a table of the class": (
        """
        def send(self):
            self.wfile.write(b"x")

        commands = {"send": send}

        def handle(self):
            self.commands["send"](self)
        """,
        [
            "8: send uses the socket and is not called here, so that nobody can tell by whom it is",
            f'11: the handler itself is handed to self.commands["send"](), {UNSEEN}',
        ],
    ),
    "a function in a method as a callback": (
        """
        def handle(self):
            def send():
                self.wfile.write(b"x")

            start_new_thread(send, ())
        """,
        ["9: send uses the socket and is not called here, so that nobody can tell by whom it is"],
    ),
    "the handler itself goes elsewhere": (
        """
        def handle(self):
            self.server.handlers.append(self)
            self.server.handler = self
            self.peer = self
            getattr(self, "do_" + self.name)()
        """,
        [
            f"6: the handler itself is handed to self.server.handlers.append(), {UNSEEN}",
            f"7: the handler itself is kept in self.server.handler, {UNSEEN}",
            f"8: the handler itself is kept in self.peer, {UNSEEN}",
            (
                f"9: the handler itself is handed to getattr(), {UNSEEN}"
                " - calling the method by its name"
            ),
        ],
    ),
    "what Python calls": (
        """
        def handle(self):
            print(len(self))

        def __len__(self):
            return len(self.rfile.read(1))
        """,
        [
            f"6: the handler itself is handed to len(), {UNSEEN}",
            "8: __len__() waits for the client, and Python itself calls it without an await",
        ],
    ),
    "decorators": (
        """
        @timed
        def handle(self):
            print(self.name)

        @property
        def name(self):
            return self.rfile.readline()
        """,
        [
            "5: @timed may not know what to do with a coroutine",
            "9: @property may not know what to do with a coroutine",
        ],
    ),
    "a coroutine on the wrong base": (
        """
        async def handle(self):
            self.wfile.write(b"x")
        """,
        ["5: handle() is a coroutine already"],
    ),
    "a constructor that goes on": (
        """
        def __init__(self, *args):
            super().__init__(*args)
            print("served")

        def handle(self):
            pass
        """,
        [
            (
                "5: the request is served in the base class's __init__(), which has to be called "
                "at the end of this one: with coroutines it comes after all of it"
                " - what is done afterwards belongs into finish()"
            )
        ],
    ),
    "a constructor that uses the socket": (
        """
        def __init__(self, request, client_address, server):
            request.sendall(b"x")
            super().__init__(request, client_address, server)

        def handle(self):
            pass
        """,
        ["5: __init__() waits for the client, and Python itself calls it without an await"],
    ),
    "handle() of the base class": (
        """
        def handle(self):
            super().handle()
        """,
        [
            (
                "6: super().handle() does nothing there, and raises NotImplementedError here"
                " - take it out"
            )
        ],
    ),
    "no handle()": (
        """
        def handel(self):
            pass
        """,
        ["4: Handler has no handle()"],
    ),
    "an assigned hook": (
        """
        def serve(self):
            pass

        handle = serve
        """,
        ["4: Handler has no handle()", "8: handle is assigned, and not defined"],
    ),
}


@pytest.mark.parametrize("name", STREAM)
def test_stream_handler(name: str) -> None:
    methods, expected = STREAM[name]
    assert told(declined(in_class(methods, "socketserver")).obstacles) == expected


def test_files_of_a_datagram_handler_may_go_anywhere_but_not_its_socket() -> None:
    methods = """
        def handle(self):
            dump(self.rfile, self.wfile)
            dump(self.socket)
        """
    report = declined(in_class(methods, "socketserver", "DatagramRequestHandler"))
    assert told(report.obstacles) == [
        f"7: self.socket (the datagram socket) is handed to dump(), {UNSEEN}"
    ]


def test_a_pair_goes_nowhere_but_into_two_names() -> None:
    methods = """
        def handle(self):
            index = 1
            self.request[index].sendto(b"x", self.client_address)
            data, sock, more = self.request
            self.request[1].recv(10)
        """
    report = declined(in_class(methods, "socketserver", "BaseRequestHandler"))
    assert told(report.obstacles) == [
        "7: self.request is used in a way that cannot be followed",
        f"8: self.request is kept in data, sock, more, {UNSEEN}",
        "9: the datagram socket of a coroutine handler has no recv",
    ]


# Each: a whole source, and what is told.
SOURCES: dict[str, tuple[str, list[str]]] = {
    "Python 2's name": (
        """
        import SocketServer

        class Handler(SocketServer.BaseRequestHandler):
            def handle(self):
                self.request.sendall(b"x")
        """,
        [
            (
                "4: SocketServer is Python 2's name of the module, so this never ran on Python 3"
                " - make the program run on Python 3 first"
            )
        ],
    ),
    "a base class from elsewhere": (
        """
        from mine import Handler as Base

        class Handler(Base):
            def handle(self):
                self.request.sendall(b"x")
        """,
        [
            (
                "4: the base class mine.Handler comes from elsewhere, and what it does cannot be "
                "seen - migrate it first, by hand if it has to be"
            )
        ],
    ),
    "a mixin from elsewhere": (
        """
        import socketserver
        from mine import Mixin

        class Handler(Mixin, socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")
        """,
        [
            (
                "5: the base class mine.Mixin comes from elsewhere, and what it does cannot be seen"
                " - migrate it first, by hand if it has to be"
            )
        ],
    ),
    "a base class from elsewhere beside one of socketserver's": (
        """
        import mine, socketserver

        class Base(socketserver.StreamRequestHandler):
            pass

        class Handler(Base, mine.Handler):
            pass
        """,
        [
            (
                "7: the base class mine.Handler comes from elsewhere, and what it does cannot be "
                "seen - migrate it first, by hand if it has to be"
            )
        ],
    ),
    "a mixin of others, too": (
        """
        import socketserver

        class Mixin:
            pass

        class Handler(Mixin, socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        class Client(Mixin):
            pass
        """,
        ["11: Client is no handler, and derives from Mixin as well"],
    ),
    "both kinds of files": (
        """
        import socketserver

        class Mixin:
            def handle(self):
                self.wfile.write(b"x")

        class Stream(Mixin, socketserver.StreamRequestHandler):
            pass

        class Datagram(Mixin, socketserver.DatagramRequestHandler):
            pass
        """,
        ["11: it shares methods with handlers of the other kind of socket"],
    ),
    "a decorated class": (
        """
        import socketserver

        @registered
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")
        """,
        ["4: @registered may change any method"],
    ),
    "a base class from elsewhere, by a star": (
        """
        from http.server import *

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.wfile.write(b"x")
        """,
        [
            (
                "4: the base class BaseHTTPRequestHandler comes from elsewhere, and what it does "
                "cannot be seen - migrate it first, by hand if it has to be"
            )
        ],
    ),
    "an obstacle in one class is one for all": (
        """
        import socketserver

        class Base(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"x")

        class Derived(Base):
            def handle(self):
                send(self.wfile)
        """,
        [f"10: self.wfile is handed to send(), {UNSEEN}"],
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_source(name: str) -> None:
    source, expected = SOURCES[name]
    assert told(declined(source).obstacles) == expected

"""Handlers before and after the migration, as somebody would have written them."""

import textwrap

import pytest

from tests.migrate_support import after, migrated

# Each: what it shows, the methods of a StreamRequestHandler before, and after.
STREAM = {
    "I/O on the socket and the files": (
        """
        def handle(self):
            greeting = self.request.recv(3)
            self.request.sendall(greeting)
            count = self.connection.send(b"x")
            self.connection.recv_into(bytearray(4))
            line = self.rfile.readline()
            rest = self.rfile.read(10) + self.rfile.read1()
            self.wfile.write(line)
            self.wfile.writelines([rest, b"y"])
            self.wfile.flush()
        """,
        """
        async def handle(self):
            greeting = await self.request.recv(3)
            await self.request.sendall(greeting)
            count = await self.connection.send(b"x")
            await self.connection.recv_into(bytearray(4))
            line = await self.rfile.readline()
            rest = await self.rfile.read(10) + await self.rfile.read1()
            await self.wfile.write(line)
            await self.wfile.writelines([rest, b"y"])
            await self.wfile.flush()
        """,
    ),
    "what does not wait stays": (
        """
        def handle(self):
            self.request.settimeout(5)
            print(self.request.getpeername(), self.request, self.client_address)
            logger.info("%s on %s" % (self.name, self.request), self.connection)
            print("{}".format(self.request), f"{self.request}", self.request is None)
            self.server.shutdown_request(self.request)
            self.request.shutdown(1)
            self.request.close()
        """,
        """
        async def handle(self):
            self.request.settimeout(5)
            print(self.request.getpeername(), self.request, self.client_address)
            logger.info("%s on %s" % (self.name, self.request), self.connection)
            print("{}".format(self.request), f"{self.request}", self.request is None)
            self.server.shutdown_request(self.request)
            self.request.shutdown(1)
            self.request.close()
        """,
    ),
    "loops and comprehensions over rfile": (
        """
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)
            else:
                lines = [line for line in self.rfile if line]
            blocks = {self.rfile.read(2) for _ in range(3)}
            for byte in self.rfile.read(3):
                print(byte)
        """,
        """
        async def handle(self):
            async for line in self.rfile:
                await self.wfile.write(line)
            else:
                lines = [line async for line in self.rfile if line]
            blocks = {await self.rfile.read(2) for _ in range(3)}
            for byte in await self.rfile.read(3):
                print(byte)
        """,
    ),
    "parentheses where something follows the call, and only there": (
        """
        def handle(self):
            text = self.rfile.readline().strip().decode()
            first = self.request.recv(4)[0]
            same = (self.request.recv(4)).upper()
            if not self.request.recv(1) or self.request.send(b"x") == 1:
                return self.rfile.read(1)
            long = (
                self.request  # the client
                .recv(4)
            )
            return -self.request.send(b"x") ** 2, f"{self.rfile.read(1)!r}"
        """,
        """
        async def handle(self):
            text = (await self.rfile.readline()).strip().decode()
            first = (await self.request.recv(4))[0]
            same = (await self.request.recv(4)).upper()
            if not await self.request.recv(1) or await self.request.send(b"x") == 1:
                return await self.rfile.read(1)
            long = (
                await self.request  # the client
                .recv(4)
            )
            return -await self.request.send(b"x") ** 2, f"{await self.rfile.read(1)!r}"
        """,
    ),
    "assignments in conditions": (
        """
        def handle(self):
            while chunk := self.request.recv(1024):
                print(chunk)
            while (chunk := self.request.recv(1024)) != b"":
                print(chunk)
        """,
        """
        async def handle(self):
            while chunk := await self.request.recv(1024):
                print(chunk)
            while (chunk := await self.request.recv(1024)) != b"":
                print(chunk)
        """,
    ),
    "local names, also by unpacking, by annotation and for a method": (
        """
        def handle(self):
            conn, address = self.request, self.client_address
            output: object = self.wfile
            send = conn.sendall
            other = conn
            other.sendall(other.recv(1))
            output.write(b"x")
            send(b"x")
            if (again := self.rfile) is not None:
                again.readline()
        """,
        """
        async def handle(self):
            conn, address = self.request, self.client_address
            output: object = self.wfile
            send = conn.sendall
            other = conn
            await other.sendall(await other.recv(1))
            await output.write(b"x")
            await send(b"x")
            if (again := self.rfile) is not None:
                await again.readline()
        """,
    ),
    "a name that is None first": (
        """
        def handle(self):
            conn = None
            if self.client_address:
                conn = self.request
            if conn:
                conn.sendall(b"x")
        """,
        """
        async def handle(self):
            conn = None
            if self.client_address:
                conn = self.request
            if conn:
                await conn.sendall(b"x")
        """,
    ),
    "attributes of the handler": (
        """
        conn = None

        def setup(self):
            super().setup()
            self.conn = self.request
            self.name, self.output = "x", self.wfile

        def handle(self):
            self.conn.sendall(self.name.encode())
            self.output.write(b"x")
        """,
        """
        conn = None

        async def setup(self):
            await super().setup()
            self.conn = self.request
            self.name, self.output = "x", self.wfile

        async def handle(self):
            await self.conn.sendall(self.name.encode())
            await self.output.write(b"x")
        """,
    ),
    "methods of the handler, whatever they call one another": (
        """
        def handle(self):
            if self.login():
                self.reply("hello", to=self.wfile)

        def login(self):
            name = self.ask("name")
            return name in self.known()

        def ask(self, what):
            self.reply(what)
            return self.rfile.readline().strip()

        def reply(self, text, *, to=None):
            self.wfile.write(self.encoded(text))

        def encoded(self, text):
            return text.encode()

        def known(self):
            return {b"me"}
        """,
        """
        async def handle(self):
            if await self.login():
                await self.reply("hello", to=self.wfile)

        async def login(self):
            name = await self.ask("name")
            return name in self.known()

        async def ask(self, what):
            await self.reply(what)
            return (await self.rfile.readline()).strip()

        async def reply(self, text, *, to=None):
            await self.wfile.write(self.encoded(text))

        def encoded(self, text):
            return text.encode()

        def known(self):
            return {b"me"}
        """,
    ),
    "methods that are handed the socket or a file": (
        """
        def handle(self):
            self.copy(self.rfile, output=self.wfile)

        def copy(self, source, output):
            for line in source:
                output.write(line)
                self.count(line)

        def count(self, line):
            self.lines = len(line)
        """,
        """
        async def handle(self):
            await self.copy(self.rfile, output=self.wfile)

        async def copy(self, source, output):
            async for line in source:
                await output.write(line)
                self.count(line)

        def count(self, line):
            self.lines = len(line)
        """,
    ),
    "functions in methods": (
        """
        def handle(self):
            def reply(text):
                self.wfile.write(text)

            def upper(text):
                return text.upper()

            reply(upper(b"x"))
        """,
        """
        async def handle(self):
            async def reply(text):
                await self.wfile.write(text)

            def upper(text):
                return text.upper()

            await reply(upper(b"x"))
        """,
    ),
    "the base class's own methods": (
        """
        def __init__(self, *args):
            self.seen = []
            super().__init__(*args)

        def setup(self):
            socketserver.StreamRequestHandler.setup(self)

        def handle(self):
            self.wfile.write(b"x")

        def finish(self):
            super(Handler, self).finish()
        """,
        """
        def __init__(self, *args):
            self.seen = []
            super().__init__(*args)

        async def setup(self):
            await aiosocketserver.StreamRequestHandler.setup(self)

        async def handle(self):
            await self.wfile.write(b"x")

        async def finish(self):
            await super(Handler, self).finish()
        """,
    ),
    "constructors": (
        """
        def __init__(self, directory, *args):
            self.directory = directory
            super().__init__(*args)
            return

        def handle(self):
            self.wfile.write(self.directory.encode())
        """,
        """
        def __init__(self, directory, *args):
            self.directory = directory
            super().__init__(*args)
            return

        async def handle(self):
            await self.wfile.write(self.directory.encode())
        """,
    ),
    "properties that do not wait": (
        """
        @property
        def peer(self):
            return self.request.getpeername()

        @functools.cached_property
        def name(self):
            return str(self.peer)

        def handle(self):
            log(self.peer)
            self.wfile.write(encode(self.name))
        """,
        """
        @property
        def peer(self):
            return self.request.getpeername()

        @functools.cached_property
        def name(self):
            return str(self.peer)

        async def handle(self):
            log(self.peer)
            await self.wfile.write(encode(self.name))
        """,
    ),
    "functions that do not wait, whatever they are": (
        """
        def handle(self):
            def pairs():
                yield 1, 2
            for pair in pairs():
                self.wfile.write(self.text(pair, self.registered()))

        @staticmethod
        def text(pair, end):
            return encode(pair) + end

        @classmethod
        def registered(cls):
            return register(cls)
        """,
        """
        async def handle(self):
            def pairs():
                yield 1, 2
            for pair in pairs():
                await self.wfile.write(self.text(pair, self.registered()))

        @staticmethod
        def text(pair, end):
            return encode(pair) + end

        @classmethod
        def registered(cls):
            return register(cls)
        """,
    ),
    "the first iterable of a generator expression is outside of it": (
        """
        def handle(self):
            print(sum(byte for byte in self.rfile.read(3)))
        """,
        """
        async def handle(self):
            print(sum(byte for byte in await self.rfile.read(3)))
        """,
    ),
    "comments, blanks and one-liners": (
        """
        # before
        def handle(self):  # on the line

            self . wfile . write( b"x" ) ; self.wfile.flush() # two

            # for nothing
            for  line in self.rfile : self.wfile.write(line)
        # after
        """,
        """
        # before
        async def handle(self):  # on the line

            await self . wfile . write( b"x" ) ; await self.wfile.flush() # two

            # for nothing
            async for  line in self.rfile : await self.wfile.write(line)
        # after
        """,
    ),
}


def in_class(methods: str, module: str, base: str = "StreamRequestHandler") -> str:
    """A source with a handler that has these methods."""
    body = textwrap.indent(textwrap.dedent(methods).strip("\n"), "    ")
    return f"import {module}\n\n\nclass Handler({module}.{base}):\n{body}\n"


@pytest.mark.parametrize("name", STREAM)
def test_stream_handler(name: str) -> None:
    before, expected = STREAM[name]
    assert after(in_class(before, "socketserver")) == in_class(expected, "aiosocketserver")


# The methods of a BaseRequestHandler.
BASE = {
    "a pair, unpacked": (
        """
        def handle(self):
            data, sock = self.request
            sock.sendto(data.strip(), self.client_address)
        """,
        """
        async def handle(self):
            data, sock = self.request
            await sock.sendto(data.strip(), self.client_address)
        """,
    ),
    "a pair, by index, and a name that hides a module": (
        """
        def handle(self):
            data = self.request[0].strip()
            socket = self.request[1]
            socket.sendto(data, self.client_address)
            self.request[1].sendto(data, self.client_address)
        """,
        """
        async def handle(self):
            data = self.request[0].strip()
            socket = self.request[1]
            await socket.sendto(data, self.client_address)
            await self.request[1].sendto(data, self.client_address)
        """,
    ),
    "attributes": (
        """
        def setup(self):
            self.data, self.sock = self.request

        def handle(self):
            self.sock.sendto(self.data, self.client_address)
        """,
        """
        async def setup(self):
            self.data, self.sock = self.request

        async def handle(self):
            await self.sock.sendto(self.data, self.client_address)
        """,
    ),
    "one handler for both kinds of server": (
        """
        def handle(self):
            if self.server.is_stream:
                self.request.sendall(self.request.recv(100))
            else:
                data, sock = self.request
                sock.sendto(data, self.client_address)
        """,
        """
        async def handle(self):
            if self.server.is_stream:
                await self.request.sendall(await self.request.recv(100))
            else:
                data, sock = self.request
                await sock.sendto(data, self.client_address)
        """,
    ),
    "its own files are not known, and nothing is made of them": (
        """
        def handle(self):
            self.rfile = [b"x"]
            for line in self.rfile:
                self.request.sendall(line)
        """,
        """
        async def handle(self):
            self.rfile = [b"x"]
            for line in self.rfile:
                await self.request.sendall(line)
        """,
    ),
}


@pytest.mark.parametrize("name", BASE)
def test_base_handler(name: str) -> None:
    before, expected = BASE[name]
    base = "BaseRequestHandler"
    assert after(in_class(before, "socketserver", base)) == in_class(
        expected, "aiosocketserver", base
    )


def test_datagram_handler_has_files_in_memory() -> None:
    before = """
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line.upper())
            self.socket.sendto(self.packet, self.client_address)
        """
    expected = """
        async def handle(self):
            for line in self.rfile:
                self.wfile.write(line.upper())
            await self.socket.sendto(self.packet, self.client_address)
        """
    base = "DatagramRequestHandler"
    assert after(in_class(before, "socketserver", base)) == in_class(
        expected, "aiosocketserver", base
    )


def test_classes_that_derive_from_one_another_are_converted_together() -> None:
    before = """
        import socketserver

        class Replies:
            def reply(self, text):
                self.wfile.write(text)

        class Base(Replies, socketserver.StreamRequestHandler):
            def handle(self):
                self.greet()

            def greet(self):
                pass

        class Polite(Base):
            def greet(self):
                self.reply(b"hello")

        class Silent(Base):
            def greet(self):
                self.silent = True
        """
    expected = """
        import aiosocketserver

        class Replies:
            async def reply(self, text):
                await self.wfile.write(text)

        class Base(Replies, aiosocketserver.StreamRequestHandler):
            async def handle(self):
                await self.greet()

            async def greet(self):
                pass

        class Polite(Base):
            async def greet(self):
                await self.reply(b"hello")

        class Silent(Base):
            async def greet(self):
                self.silent = True
        """
    assert after(before) == textwrap.dedent(expected)


def test_handlers_in_functions_and_what_is_beside_them() -> None:
    before = """
        def make():
            import socketserver

            class Handler(socketserver.StreamRequestHandler):
                def handle(self):
                    self.wfile.write(b"x")

            return Handler

        class Client:
            def handle(self):
                self.wfile.write(b"x")
        """
    expected = """
        def make():
            import aiosocketserver

            class Handler(aiosocketserver.StreamRequestHandler):
                async def handle(self):
                    await self.wfile.write(b"x")

            return Handler

        class Client:
            def handle(self):
                self.wfile.write(b"x")
        """
    assert after(before) == textwrap.dedent(expected)


def test_a_class_around_a_handler_is_none() -> None:
    text = after("""
        import socketserver, unittest

        class Tests(unittest.TestCase):
            def test_it(self):
                class Handler(socketserver.StreamRequestHandler):
                    def handle(self):
                        self.wfile.write(b"x")
        """)
    assert "class Tests(unittest.TestCase):\n    def test_it(self):" in text


def test_a_coroutine_handler_is_left_alone() -> None:
    source = in_class("async def handle(self):\n    self.wfile.write(b'x')", "aiosocketserver")
    migration = migrated(source)
    assert (migration.source.decode(), migration.reports) == (source, ())

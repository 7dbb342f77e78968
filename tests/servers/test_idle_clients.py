"""A shutdown does not wait for clients that ask for nothing, and cuts nobody who asks.

Most clients here never close before the server does, and `shutdown(None)` has no deadline: a
test in which one is waited for does not end.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    ShutdownReport,
    StreamRequestHandler,
    TCPServer,
    UnixStreamServer,
)
from tests.support import Peer, client_of, until
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)

Handler = StreamRequestHandler


async def iterate(handler: Handler) -> bytes:
    async for line in handler.rfile:
        return line
    return b""


async def read_exactly(handler: Handler) -> bytes:
    try:
        return await handler.rfile.readexactly(2)
    except asyncio.IncompleteReadError as error:
        return error.partial


async def read_until(handler: Handler) -> bytes:
    try:
        return await handler.rfile.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial


async def read_into(handler: Handler) -> bytes:
    buffer = bytearray(2)
    return bytes(buffer[: await handler.rfile.readinto(buffer)])


async def recv_into(handler: Handler) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: await handler.request.recv_into(buffer)])


async def recvmsg(handler: Handler) -> bytes:
    data, _, _, _ = await handler.request.recvmsg(100)
    return data


READS: dict[str, Callable[[Handler], Awaitable[bytes]]] = {
    "iteration": iterate,
    "read": lambda handler: handler.rfile.read(2),
    "read1": lambda handler: handler.rfile.read1(),
    "readexactly": read_exactly,
    "readinto": read_into,
    "readline": lambda handler: handler.rfile.readline(),
    "readuntil": read_until,
    "recv": lambda handler: handler.request.recv(100),
    "recv_into": recv_into,
    "recvmsg": recvmsg,
}


def answering(read: Callable[[Handler], Awaitable[bytes]]) -> type[Handler]:
    """A handler that answers what it reads, until there is no more."""

    class Answers(StreamRequestHandler):
        async def handle(self) -> None:
            while message := await read(self):
                await self.wfile.write(message.upper())
            await self.wfile.write(b"bye\n")

    return Answers


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class Sink(StreamRequestHandler):
    """Never says anything."""

    async def handle(self) -> None:
        async for _ in self.rfile:
            pass


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[..., Any], server_class: type[TCPServer] = TCPServer, **options: Any
) -> AsyncIterator[TCPServer]:
    address = LOCALHOST if server_class is TCPServer else options.pop("path")
    options.setdefault("end_when_draining", True)
    # The same for those that are closing.
    options.setdefault("linger_timeout", 3600)
    async with server_class(address, handler, **options) as server:
        await server.start_serving()
        yield server


@contextlib.asynccontextmanager
async def draining(server: TCPServer) -> AsyncIterator["asyncio.Task[ShutdownReport]"]:
    """The body runs while the server shuts down, and waits until it has done so."""
    shutdown = asyncio.create_task(server.shutdown(None))
    await until(lambda: server.draining)
    yield shutdown
    report = await shutdown
    assert report.cut == 0


@pytest.mark.parametrize("read", READS)
async def test_a_client_that_was_answered_is_not_waited_for(read: str) -> None:
    async with (
        serving(answering(READS[read])) as server,
        client_of(server.server_address) as client,
    ):
        await client.send(b"x\n")
        assert await client.receive(2) == b"X\n"
        async with draining(server):
            assert await client.receive_all() == b"bye\n"
    assert server.statistics.finished == 1


@pytest.mark.parametrize("read", READS)
async def test_a_client_that_has_said_nothing_is_not_waited_for(read: str) -> None:
    async with (
        serving(answering(READS[read])) as server,
        client_of(server.server_address) as client,
    ):
        await until(lambda: server.requests())
        async with draining(server):
            assert await client.receive_all() == b"bye\n"


@pytest.mark.parametrize("read", ["iteration", "recv"])
async def test_a_client_that_gets_no_answers_is_not_waited_for(read: str) -> None:
    class Reads(StreamRequestHandler):
        async def handle(self) -> None:
            while await READS[read](self):
                pass

    async with serving(Reads) as server, client_of(server.server_address) as client:
        await client.send(b"x\n")
        await until(lambda: server.statistics.bytes_received == 2)
        async with draining(server):
            assert await client.receive_all() == b""


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    async with (
        serving(answering(iterate), UnixStreamServer, path=path) as server,
        client_of(path) as silent,
        client_of(path) as answered,
    ):
        await answered.send(b"x\n")
        assert await answered.receive(2) == b"X\n"
        async with draining(server):
            assert await answered.receive_all() == b"bye\n"
            assert await silent.receive_all() == b"bye\n"


async def test_under_tls(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    context = certificates.client_context()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            serving(answering(iterate), ssl_context=certificates.server_context())
        )
        answered, silent = [
            await stack.enter_async_context(tls_client(server.server_address, context))
            for _ in range(2)
        ]
        # Its handshake never begins.
        mute = await stack.enter_async_context(client_of(server.server_address))
        answered[1].write(b"x\n")
        assert await answered[0].readexactly(2) == b"X\n"
        async with draining(server):
            assert await answered[0].read() == b"bye\n"
            assert await silent[0].read() == b"bye\n"
            assert await mute.receive_all() == b""
    assert server.statistics.handshakes_failed == 0


async def test_whose_proxy_has_said_nothing() -> None:
    async with (
        serving(Echo, proxy_protocol="required", proxy_trusted=["127.0.0.1"]) as server,
        client_of(server.server_address) as mute,
    ):
        await until(lambda: server.requests())
        async with draining(server):
            assert await mute.receive_all() == b""
    assert not server.statistics.timed_out
    assert not server.statistics.refused


async def test_a_handshake_that_has_begun_is_waited_for(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    async with (
        serving(Echo, ssl_context=certificates.server_context()) as server,
        client_of(server.server_address) as begun,
        silence(server) as silent,
    ):
        await begun.send(b"\x16\x03\x01")
        # When a whole handshake is done, the loop has taken what came before it.
        async with tls_client(server.server_address, certificates.client_context()):
            pass
        async with draining(server):
            assert await silent.receive_all() == b""
            # It has seen the other one go, and goes on with what is no handshake.
            await begun.send(b"\xff\xff\x00")
            await begun.receive_all()
    assert server.statistics.handshakes_failed == 1


# Who is waited for


@contextlib.asynccontextmanager
async def silence(server: TCPServer) -> AsyncIterator[Peer]:
    """A client that has said nothing: when it is let go, the others have been judged as well."""
    async with client_of(server.server_address) as client:
        await until(lambda: server.requests())
        yield client


PARTS: dict[str, tuple[Callable[[Handler], Awaitable[bytes]], bytes, bytes]] = {
    "line": (READS["readline"], b"half a ", b"line\n"),
    "iteration": (READS["iteration"], b"half a ", b"line\n"),
    "until": (READS["readuntil"], b"half a ", b"line\n"),
    "exactly": (lambda handler: handler.rfile.readexactly(10), b"12345", b"67890"),
    "read": (lambda handler: handler.rfile.read(10), b"12345", b"67890"),
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_message_that_has_begun_is_read_and_answered(part: str) -> None:
    read, beginning, rest = PARTS[part]

    class Reads(StreamRequestHandler):
        async def handle(self) -> None:
            # So that the wait for the rest of it follows an answer.
            await self.wfile.write(await self.rfile.readline())
            if message := await read(self):
                await self.wfile.write(message)

    async with (
        serving(Reads) as server,
        client_of(server.server_address) as client,
        silence(server) as silent,
    ):
        await client.send(b"first\n" + beginning)
        assert await client.receive(6) == b"first\n"
        async with draining(server):
            assert await silent.receive_all() == b""
            await client.send(rest)
            assert await client.receive_all() == beginning + rest


async def test_a_message_in_parts_that_only_the_handler_knows_goes_on() -> None:
    class Reads(BaseRequestHandler):
        async def handle(self) -> None:
            data = b""
            while not data.endswith(b".") and (part := await self.request.recv(100)):
                data += part
            await self.request.sendall(data)

    async with serving(Reads) as server, client_of(server.server_address) as client:
        await client.send(b"1")
        await until(lambda: server.statistics.bytes_received == 1)
        async with draining(server):
            for _ in range(3):
                await client.send(b"2")
                # Long enough to be cut, if answers alone were to count.
                await asyncio.sleep(0.1)
            await client.send(b".")
            assert await client.receive_all() == b"1222."


@pytest.mark.parametrize("beginning", [b"", b"the answer to "])
async def test_a_handler_that_works_while_another_task_reads_goes_on(beginning: bytes) -> None:
    may_answer = asyncio.Event()

    class Works(StreamRequestHandler):
        async def handle(self) -> None:
            question = await self.rfile.readline()
            await self.wfile.write(beginning)
            gone = asyncio.create_task(self.rfile.readline())
            work = asyncio.create_task(may_answer.wait())
            await asyncio.wait([gone, work], return_when=asyncio.FIRST_COMPLETED)
            await self.wfile.write(b"gone" if gone.done() else question)
            gone.cancel()
            work.cancel()

    async with (
        serving(Works) as server,
        serving(Sink) as other,
        client_of(server.server_address) as client,
    ):
        await client.send(b"question\n")
        await until(lambda: server.statistics.bytes_received == 9)
        async with client_of(other.server_address) as sink:
            await sink.send(b"x\n")
            await until(lambda: other.statistics.bytes_received == 2)
            async with draining(server), draining(other):
                # Who gets no answer is let go last.
                assert await sink.receive_all() == b""
                may_answer.set()
                assert await client.receive_all() == beginning + b"question\n"


async def test_a_handler_that_waits_for_something_else_goes_on() -> None:
    class Waits(StreamRequestHandler):
        async def handle(self) -> None:
            if line := await self.rfile.readline():
                await may_answer.wait()
                await self.wfile.write(line)

    may_answer = asyncio.Event()
    async with (
        serving(Waits) as server,
        client_of(server.server_address) as client,
        silence(server) as silent,
    ):
        await client.send(b"x\n")
        await until(lambda: server.statistics.bytes_received == 2)
        async with draining(server):
            assert await silent.receive_all() == b""
            may_answer.set()
            assert await client.receive_all() == b"x\n"


async def test_what_had_arrived_is_served_first() -> None:
    may_answer = asyncio.Event()

    class Busy(StreamRequestHandler):
        async def handle(self) -> None:
            while message := await self.request.recv(2):
                await may_answer.wait()
                await self.wfile.write(message)

    async with serving(Busy) as server, client_of(server.server_address) as client:
        await client.send(b"1\n")
        await until(lambda: server.statistics.bytes_received == 2)
        await client.send(b"2\n3\n")
        async with draining(server):
            may_answer.set()
            assert await client.receive_all() == b"1\n2\n3\n"


async def test_who_comes_from_the_backlog_has_time_for_a_request() -> None:
    async with (
        serving(Echo, max_connections=1) as server,
        client_of(server.server_address) as first,
    ):
        await first.send(b"x\n")
        assert await first.receive(2) == b"x\n"
        async with client_of(server.server_address) as second:
            await until(lambda: server.statistics.accept_pauses)
            async with draining(server):
                assert await first.receive_all() == b""
                first.sock.close()
                await until(lambda: server.statistics.accepted == 2)
                await second.send(b"y\n")
                assert await second.receive_all() == b"y\n"


async def test_the_last_words_arrive_whatever_the_client_says_meanwhile() -> None:
    words = bytes(4 * 1024 * 1024)

    class Talks(StreamRequestHandler):
        async def handle(self) -> None:
            async for line in self.rfile:
                await self.wfile.write(line)
            await self.wfile.write(words)

    async with serving(Talks) as server, client_of(server.server_address) as client:
        await client.send(b"x\n")
        assert await client.receive(2) == b"x\n"
        async with draining(server):
            received = 0
            while block := await client.receive(64 * 1024):
                received += len(block)
                await client.send(b"too late\n")
            assert received == len(words)
            client.sock.close()


# What a handler, a server and its programs may say of it


async def test_a_handler_that_says_false_is_waited_for() -> None:
    class Stays(StreamRequestHandler):
        async def handle(self) -> None:
            self.request.end_when_draining(False)
            async for line in self.rfile:
                await self.wfile.write(line)

    async with (
        serving(Stays) as server,
        client_of(server.server_address) as client,
        silence(server) as silent,
    ):
        await client.send(b"x\n")
        assert await client.receive(2) == b"x\n"
        async with draining(server):
            # Nothing ends it, so there is no event to wait for.
            await asyncio.sleep(0.7)
            for each in (client, silent):
                await each.send(b"y\n")
                assert await each.receive(2) == b"y\n"
                each.finish()


@pytest.mark.parametrize("said", [None, False])
async def test_a_server_by_itself_waits(said: bool | None) -> None:
    async with (
        serving(Echo, end_when_draining=said) as server,
        client_of(server.server_address) as client,
    ):
        await client.send(b"x\n")
        assert await client.receive(2) == b"x\n"
        report = asyncio.create_task(server.shutdown(0.7))
        assert await client.receive_all() == b""
        client.sock.close()
        assert await report == (0, 1, 0)

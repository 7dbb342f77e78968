"""The end of a TLS connection: clients get the whole answer, and hold the server up for no longer.

Whoever serves: coroutine handlers, greenlets, threads, children.
"""

import asyncio
import contextlib
import socket
import socketserver
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aiosocketserver import (
    ForkingTCPServer,
    GreenletTCPServer,
    StreamRequestHandler,
    TCPServer,
    ThreadingTCPServer,
)
from aiosocketserver.sockets.tls_ending import SSLSocketEnd
from tests.support import until_later
from tests.tls_support import Certificates, blocking_client, is_gone, receive_slowly

LOCALHOST = ("127.0.0.1", 0)

# More than the buffers of the kernel and of a client take at once.
ANSWER = bytes(range(256)) * (8 * 1024)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


class Answers(StreamRequestHandler):
    """Reads a line, answers it at length, and ends."""

    async def handle(self) -> None:
        await self.rfile.readline()
        await self.request.sendall(ANSWER)


class WritesAnswer(StreamRequestHandler):
    async def handle(self) -> None:
        await self.rfile.readline()
        self.request._write(ANSWER)


class SaysTheEnd(StreamRequestHandler):
    async def handle(self) -> None:
        await self.rfile.readline()
        await self.wfile.write(ANSWER)
        self.request.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ssl.SSLEOFError):
            await self.rfile.read()


class LegacyAnswers(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(ANSWER)


KINDS = {
    "coroutine": (TCPServer, Answers),
    "coroutine that writes": (TCPServer, WritesAnswer),
    "coroutine that says the end": (TCPServer, SaysTheEnd),
    "greenlet": (GreenletTCPServer, LegacyAnswers),
    "thread": (ThreadingTCPServer, LegacyAnswers),
    "child": (ForkingTCPServer, LegacyAnswers),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
# Whose handler has ended when the answer is sent.
each_that_ends = pytest.mark.parametrize("kind", sorted({*KINDS} - {"coroutine that says the end"}))


@contextlib.asynccontextmanager
async def serving(kind: str, certificates: Certificates, **options: Any) -> AsyncIterator[Any]:
    make, handler = KINDS[kind]
    server = make(LOCALHOST, handler, ssl_context=certificates.server_context(), **options)
    async with server:
        await server.start_serving()
        yield server


@each_kind
async def test_a_client_of_the_loop_gets_the_whole_answer(
    kind: str, certificates: Certificates
) -> None:
    async with serving(kind, certificates, linger_timeout=30.0) as server:
        for _ in range(5):
            received = await receive_slowly(server.server_address, certificates.client_context())
            assert len(received) == len(ANSWER)
            assert received == ANSWER


@each_kind
async def test_the_fin_waits_for_the_clients_close_notify_and_for_nothing_else(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=60.0) as server,
        blocking_client(server, certificates) as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == ANSWER
        await asyncio.sleep(0.05)  # in which it would have come
        assert not client.has_fin()
        # The client says its end, and goes on waiting for the FIN.
        await asyncio.to_thread(client.secured.unwrap)
        assert await asyncio.to_thread(client.wait_for_fin)


@each_kind
async def test_a_client_that_closes_without_close_notify_is_not_waited_for(
    kind: str, certificates: Certificates
) -> None:
    async with serving(kind, certificates, linger_timeout=60.0) as server:
        async with blocking_client(server, certificates) as client:
            assert await asyncio.to_thread(client.receive_all) == ANSWER
        await until_later(lambda: is_gone(server))


@each_that_ends
async def test_a_client_that_never_answers_is_let_go_after_the_time_out(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=0.2) as server,
        blocking_client(server, certificates) as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == ANSWER
        assert await asyncio.to_thread(client.wait_for_fin)
        await until_later(lambda: is_gone(server))


@each_that_ends
async def test_a_client_that_answers_and_does_not_close_is_let_go_after_the_time_out(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=0.5) as server,
        blocking_client(server, certificates) as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == ANSWER
        await asyncio.to_thread(client.secured.unwrap)
        assert await asyncio.to_thread(client.wait_for_fin)
        await until_later(lambda: is_gone(server))


@each_that_ends
async def test_what_the_client_sends_meanwhile_is_dropped_and_its_end_is_heard(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=60.0) as server,
        # More than the line that is read.
        blocking_client(server, certificates, b"\n" + bytes(50_000)) as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == ANSWER
        await asyncio.to_thread(client.secured.sendall, bytes(300_000))
        await asyncio.sleep(0.05)  # in which the FIN would have come
        assert not client.has_fin()
        await asyncio.to_thread(client.secured.unwrap)
        assert await asyncio.to_thread(client.wait_for_fin)


@each_kind
async def test_rubbish_in_the_place_of_the_end_ends_it(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=60.0) as server,
        blocking_client(server, certificates) as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == ANSWER
        client.plain.sendall(bytes(100))
        # An alert perhaps, and then the FIN.
        while await asyncio.to_thread(client.plain.recv, 100):
            pass
        client.plain.shutdown(socket.SHUT_WR)
        await until_later(lambda: is_gone(server))


@each_kind
async def test_the_end_is_said_although_the_kernel_is_full(
    kind: str, certificates: Certificates
) -> None:
    """The last byte fills the buffers, so that close_notify has to wait for room."""
    async with (
        serving(kind, certificates, linger_timeout=60.0) as server,
        blocking_client(server, certificates) as client,
    ):
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        async with blocking_client(server, certificates) as other:
            for each in (client, other):
                assert await asyncio.to_thread(each.receive_all) == ANSWER
                each.close()
        await until_later(lambda: is_gone(server))


@each_that_ends
async def test_with_no_time_to_linger_nobody_is_waited_for(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=0) as server,
        blocking_client(server, certificates),
    ):
        await until_later(lambda: is_gone(server))


@each_that_ends
async def test_shutdown_waits_for_a_closing_connection_no_longer_than_for_others(
    kind: str, certificates: Certificates
) -> None:
    async with (
        serving(kind, certificates, linger_timeout=600.0) as server,
        blocking_client(server, certificates) as client,
    ):
        assert await asyncio.to_thread(client.receive_all) == ANSWER
        await server.shutdown(0.1)
        assert is_gone(server)
        assert await asyncio.to_thread(client.wait_for_fin)


@pytest.mark.parametrize("program", ["curl", "openssl"])
@each_that_ends
async def test_programs_that_wait_for_the_end_are_not_held_up(
    kind: str, program: str, certificates: Certificates, require_program: Callable[[str], str]
) -> None:
    """They take close_notify for the end, as HTTP/1.0 has it."""
    path = require_program(program)
    async with serving(kind, certificates, linger_timeout=60.0) as server:
        port, trusted = server.server_address[1], str(certificates.ca_file)
        arguments = {
            "curl": ["-sS", "--http0.9", "--cacert", trusted, f"https://127.0.0.1:{port}"],
            "openssl": ["s_client", "-quiet", "-connect", f"127.0.0.1:{port}", "-CAfile", trusted],
        }[program]
        process = await asyncio.create_subprocess_exec(
            path, *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdin is not None
        if program == "openssl":
            process.stdin.write(b"\n")
        assert process.stdout is not None
        assert await process.stdout.read() == ANSWER
        process.stdin.close()
        assert await process.wait() == 0
        await until_later(lambda: is_gone(server))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1, 40_000])
def test_the_end_is_heard_behind_data_that_came_as_ours_was_said(
    certificates: Certificates, version: ssl.TLSVersion, size: int
) -> None:
    class Late(ssl.SSLSocket):
        def unwrap(self) -> socket.socket:
            client.write(bytes(size))
            client_side.sendall(outgoing.read())
            return super().unwrap()

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    context = certificates.server_context()
    context.maximum_version = version
    context.sslsocket_class = Late
    server_side, client_side = socket.socketpair()

    def speak(what: Callable[[], object]) -> None:
        while True:
            try:
                what()
            except ssl.SSLWantReadError:
                client_side.sendall(outgoing.read())
                incoming.write(client_side.recv(64 * 1024))
            else:
                client_side.sendall(outgoing.read())
                return

    def drop_all() -> None:
        while True:
            assert end.recv(1000) != b""

    with client_side, ThreadPoolExecutor() as pool:
        shaken = pool.submit(context.wrap_socket, server_side, server_side=True)
        speak(client.do_handshake)
        secured = shaken.result()
        assert secured.version() == client.version()
        end = SSLSocketEnd(secured)
        secured.close()
        with contextlib.closing(end):
            end.send()
            for part in (b"more", bytes(40_000), b"more"):
                client.write(part)
                client_side.sendall(outgoing.read())
                with pytest.raises(BlockingIOError):
                    drop_all()
            # It answers our close_notify, which it finds.
            speak(client.unwrap)
            assert end.recv(1000) == b""
            assert end.recv(1000) == b""

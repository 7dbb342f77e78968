"""TLS: real clients, handshakes that fail or never come, endings, every way to send."""

import asyncio
import contextlib
import os
import random
import socket
import socketserver
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aiosocketserver import (
    BaseRequestHandler,
    ForkingTCPServer,
    GreenletTCPServer,
    StreamRequestHandler,
    StreamSocket,
    TCPServer,
    ThreadingTCPServer,
    TimedOut,
    UDPServer,
    UnixStreamServer,
)
from tests.support import ask, client_of, until
from tests.tls_support import Certificates, receive_all, tls_client

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls"))


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


class LegacyEcho(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


async def tls_ask(address: Any, context: ssl.SSLContext, question: bytes) -> bytes:
    """One answer of the same length."""
    async with tls_client(address, context) as (reader, writer):
        writer.write(question)
        return await reader.readexactly(len(question))


# --- clients ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_echo(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = version
    async with TCPServer(LOCALHOST, Echo, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        for size in (1, 1000, 16384, 60000):
            line = b"x" * size + b"\n"
            assert await tls_ask(server.server_address, context, line) == line


async def test_a_unix_server_can_have_tls(certificates: Certificates, tmp_path: Path) -> None:
    context = certificates.server_context()
    async with UnixStreamServer(str(tmp_path / "socket"), Echo, ssl_context=context) as server:
        await server.start_serving()
        client = certificates.client_context()
        assert await tls_ask(server.server_address, client, b"hello\n") == b"hello\n"


@pytest.mark.parametrize("make", [ThreadingTCPServer, ForkingTCPServer])
async def test_legacy_handlers_have_an_ssl_socket(make: Any, certificates: Certificates) -> None:
    class Tells(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            assert isinstance(self.request, ssl.SSLSocket)
            version = self.request.version() or ""
            self.wfile.write(self.rfile.readline() + version.encode())

    async with make(LOCALHOST, Tells, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        async with tls_client(server.server_address, certificates.client_context()) as streams:
            reader, writer = streams
            writer.write(b"hello\n")
            # The end is a clean one: asyncio would not tell, so the bytes have to.
            assert await reader.read() == b"hello\nTLSv1.3"


async def test_a_clean_end_is_said_on_both_sides(certificates: Certificates) -> None:
    """A blocking client sees close_notify, whatever runs the handler."""
    for make, handler in ((TCPServer, Echo), (ThreadingTCPServer, LegacyEcho)):
        context = certificates.server_context()
        async with make(LOCALHOST, handler, ssl_context=context) as server:
            await server.start_serving()

            def talk(address: Any) -> bytes:
                client = certificates.client_context()
                with (
                    socket.create_connection(address) as sock,
                    client.wrap_socket(
                        sock, server_hostname="127.0.0.1", suppress_ragged_eofs=False
                    ) as secured,
                ):
                    secured.sendall(b"hello\n")
                    received = secured.recv(100)
                    # Waits for the server's end after its own.
                    secured.unwrap().close()
                    return received

            assert await asyncio.to_thread(talk, server.server_address) == b"hello\n"
        assert server.statistics.clients_vanished == 0
        assert server.statistics.handlers_failed == 0


@pytest.mark.parametrize("update", ["k", "K"])
async def test_a_key_update_in_the_middle(
    certificates: Certificates, update: str, require_program: Callable[[str], str]
) -> None:
    async with TCPServer(LOCALHOST, Echo, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        process = await asyncio.create_subprocess_exec(
            require_program("openssl"),
            "s_client",
            "-connect",
            f"127.0.0.1:{server.server_address[1]}",
            "-CAfile",
            str(certificates.ca_file),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # It takes a letter for a command when it comes alone.
        for said, answer in ((b"before", b"before"), (update.encode(), b"KEYUPDATE")) * 2:
            process.stdin.write(said + b"\n")
            while (line := await process.stdout.readline()) != answer + b"\n":
                assert line, "s_client ended"
        process.stdin.write(b"Q\n")
        process.stdin.close()
        await process.communicate()
        assert process.returncode == 0
    assert server.statistics.clients_vanished == 0


async def test_details_of_the_connection(certificates: Certificates, tmp_path: Path) -> None:
    told: list[Any] = []

    class Tells(StreamRequestHandler):
        async def handle(self) -> None:
            tls = self.request.ssl_object
            assert tls is not None
            told.append((tls.selected_alpn_protocol(), tls.getpeercert()))

    context = certificates.server_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_verify_locations(certificates.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    client = certificates.client_context()
    client.set_alpn_protocols(["http/1.1"])
    certificates.authority.issue_cert("me@example.org").configure_cert(client)
    async with TCPServer(LOCALHOST, Tells, ssl_context=context) as server:
        await server.start_serving()
        async with tls_client(server.server_address, client) as (reader, _):
            assert await reader.read() == b""
    ((protocol, certificate),) = told
    assert protocol == "http/1.1"
    assert ("email", "me@example.org") in certificate["subjectAltName"]


# --- handshakes that fail ---


async def test_garbage_instead_of_a_handshake_is_counted_and_no_traceback(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    for make, handler in ((TCPServer, Echo), (ThreadingTCPServer, LegacyEcho)):
        context = certificates.server_context()
        async with make(LOCALHOST, handler, ssl_context=context) as server:
            await server.start_serving()
            # An alert, "unexpected message" or "decode error".
            assert (await ask(server.server_address, b"GET / HTTP/1.0\r\n\r\n"))[:1] in (
                b"",
                b"\x15",
            )
            await ask(server.server_address, os.urandom(5000))
            await ask(server.server_address, b"")
            await until(lambda: not server.requests())
            statistics = server.statistics
            assert statistics.handshakes_failed == 3
            assert (statistics.handlers_failed, statistics.clients_vanished) == (0, 0)
    assert not [r for r in caplog.records if r.exc_info or r.levelname == "ERROR"]


@pytest.mark.parametrize("legacy", [False, True])
async def test_silent_clients_hold_nobody_up_and_are_cut(
    certificates: Certificates, legacy: bool
) -> None:
    make: Any = ThreadingTCPServer if legacy else TCPServer
    handler = LegacyEcho if legacy else Echo
    context = certificates.server_context()
    async with (
        make(LOCALHOST, handler, ssl_context=context, handshake_timeout=0.5) as server,
        contextlib.AsyncExitStack() as stack,
    ):
        await server.start_serving()
        silent = [
            await stack.enter_async_context(client_of(server.server_address)) for _ in range(50)
        ]
        client = certificates.client_context()
        assert await tls_ask(server.server_address, client, b"hello\n") == b"hello\n"
        # No thread for who has not even said hello.
        assert server._threads.busy <= 1
        for peer in silent:
            assert await peer.receive_all() == b""
        assert server.statistics.timed_out == {"handshake_timeout": 50}
        assert server.statistics.handshakes_failed == 0


async def test_the_handshake_timeout_may_change_while_it_serves(certificates: Certificates) -> None:
    context = certificates.server_context()
    async with ThreadingTCPServer(LOCALHOST, LegacyEcho, ssl_context=context) as server:
        await server.start_serving()
        server.handshake_timeout = 0.1
        async with client_of(server.server_address) as peer:
            assert await peer.receive_all() == b""
        assert server.statistics.timed_out == {"handshake_timeout": 1}


@pytest.mark.parametrize("legacy", [False, True])
async def test_the_time_that_a_blocked_loop_takes_is_not_the_handshakes(
    certificates: Certificates, legacy: bool
) -> None:
    make: Any = ThreadingTCPServer if legacy else TCPServer
    handler = LegacyEcho if legacy else Echo
    context = certificates.server_context()
    server = make(LOCALHOST, handler, ssl_context=context, handshake_timeout=0.5)
    async with server, client_of(server.server_address) as peer:
        await server.start_serving()
        await until(lambda: server.statistics.active)
        await asyncio.sleep(0.05)  # for it to wait
        time.sleep(1.0)  # that is the fault
        for _ in range(3):
            await asyncio.sleep(0)
        client = certificates.client_context()
        _, writer = await asyncio.open_connection(
            sock=peer.sock.dup(), ssl=client, server_hostname="127.0.0.1"
        )
        assert not server.statistics.timed_out
        writer.transport.abort()


async def test_verify_request_comes_before_the_handshake(certificates: Certificates) -> None:
    class Refusing(TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            assert request.ssl_object is None
            return False

    async with Refusing(LOCALHOST, Echo, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        assert await ask(server.server_address) == b""


async def test_shutdown_ends_handshakes_that_never_come(certificates: Certificates) -> None:
    context = certificates.server_context()
    async with ThreadingTCPServer(LOCALHOST, LegacyEcho, ssl_context=context) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await until(lambda: server.requests())
            await server.shutdown(0.05)
            assert await client.receive_all() == b""
    assert not server.requests()


# --- endings ---


async def test_an_end_without_close_notify_is_an_error(certificates: Certificates) -> None:
    raised: list[BaseException] = []

    class Reads(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"hello")
            try:
                await self.rfile.read()
            except OSError as error:
                raised.append(error)
                raise

    async with TCPServer(LOCALHOST, Reads, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        with socket.create_connection(server.server_address) as sock:

            def cut_off() -> None:
                context = certificates.client_context()
                secured = context.wrap_socket(sock, server_hostname="127.0.0.1")
                # Unread bytes, as the session tickets, would make it a reset.
                assert secured.recv(5) == b"hello"
                secured.sendall(b"an order for 10")
                # The connection ends, and TLS knows nothing of it.
                os.close(secured.detach())

            await asyncio.to_thread(cut_off)
        await until(lambda: raised)
        await until(lambda: not server.requests())
        assert isinstance(raised[0], ssl.SSLEOFError)
        assert server.statistics.clients_vanished == 1
        assert server.statistics.handlers_failed == 0


async def test_after_its_own_end_the_server_goes_on_receiving(certificates: Certificates) -> None:
    class Half(BaseRequestHandler):
        request: StreamSocket
        received: ClassVar[list[bytes]] = []

        async def handle(self) -> None:
            # Part of what came is decrypted already when the end is said.
            assert await self.request.recv(2) == b"he"
            self.request.shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenPipeError):
                await self.request.sendall(b"too late")
            rest = b""
            while len(rest) < 1003:
                rest += await self.request.recv(100)
            self.received.append(rest)

    async with TCPServer(LOCALHOST, Half, ssl_context=certificates.server_context()) as server:
        await server.start_serving()

        def talk(address: Any) -> bytes:
            context = certificates.client_context()
            with (
                socket.create_connection(address) as sock,
                context.wrap_socket(sock, server_hostname="127.0.0.1") as secured,
            ):
                secured.sendall(b"hello")
                end = secured.recv(1)
                secured.sendall(bytes(1000))
                secured.shutdown(socket.SHUT_WR)
                return end

        assert await asyncio.to_thread(talk, server.server_address) == b""
        await until(lambda: Half.received)
        assert Half.received == [b"llo" + bytes(1000)]


# --- every way to send, by comparing bytes ---


async def test_both_directions_at_once_with_cancelled_sends(certificates: Certificates) -> None:
    """A cancelled send leaves whole records: what is sent later arrives unchanged."""
    messages = 200
    size = 100_000
    cut = 0

    class Sender(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            nonlocal cut
            sock = self.request
            # The kernel is full all the time.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

            async def receive() -> None:
                received = 0
                while received < messages * 1000:
                    received += len(await sock.recv(777))

            receiving = asyncio.create_task(receive())
            for n in range(messages):
                head = b"%09d\n" % n
                await sock.sendall(head)
                try:
                    async with asyncio.timeout(random.choice([0, 0.001, 10])):
                        await sock.sendall(head[:1] * size)
                except TimeoutError:
                    cut += 1
                # A marker by each of the other ways to send.
                sent = await sock.send(b"|")
                assert sent == 1
                assert await sock.sendmsg([b"a", b"b", b"\n"]) == 3
            await receiving

    async with TCPServer(LOCALHOST, Sender, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        async with tls_client(
            server.server_address, certificates.client_context(), limit=2**22
        ) as (reader, writer):
            for n in range(messages):
                writer.write(bytes(1000))
                assert await reader.readline() == b"%09d\n" % n
                block = await reader.readuntil(b"|")
                # Some part of it, and nothing else.
                assert block == b"0" * (len(block) - 1) + b"|"
                assert len(block) <= size + 1
                assert await reader.readline() == b"ab\n"
            await writer.drain()
            assert await reader.read() == b""
    assert cut
    assert server.statistics.handlers_failed == 0


async def test_files_and_written_lines(certificates: Certificates, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    path = tmp_path / "file"
    path.write_bytes(content)

    class Sends(StreamRequestHandler):
        async def handle(self) -> None:
            await self.wfile.write(b"first\n")
            with path.open("rb") as file:
                assert await self.request.sendfile(file) == len(content)
            for n in range(1000):
                await self.wfile.write(b"%d\n" % n)

    async with TCPServer(LOCALHOST, Sends, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        received = await receive_all(server.server_address, certificates.client_context())
    lines = b"".join(b"%d\n" % n for n in range(1000))
    assert received == b"first\n" + content + lines


async def test_what_was_written_arrives_when_the_handler_ends(certificates: Certificates) -> None:
    size = 5_000_000

    class Writes(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            self.request._write(bytes(size))

    async with TCPServer(LOCALHOST, Writes, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        received = await receive_all(server.server_address, certificates.client_context())
        assert len(received) == size


async def test_received_into_buffers_of_any_size(certificates: Certificates) -> None:
    class Receives(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            received = bytearray()
            while len(received) < 100_000:
                buffer = bytearray(random.choice([1, 100, 16384, 50000]))
                received += buffer[: await self.request.recv_into(buffer)]
            await self.request.sendall(received)

    question = os.urandom(100_000)
    async with TCPServer(LOCALHOST, Receives, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        client = certificates.client_context()
        assert await tls_ask(server.server_address, client, question) == question


async def test_what_tls_cannot_do_says_so(certificates: Certificates) -> None:
    errors: list[str] = []

    class Tries(BaseRequestHandler):
        request: StreamSocket

        async def handle(self) -> None:
            sock = self.request
            for attempt in (
                lambda: sock.recv(1, socket.MSG_PEEK),
                lambda: sock.recv_fds(1, 1),
                lambda: sock.send(b"x", socket.MSG_OOB),
                lambda: sock.send_fds([b"x"], [0]),
                lambda: sock.start_tls(certificates.server_context()),
            ):
                try:
                    await attempt()
                except (ValueError, RuntimeError) as error:
                    errors.append(str(error))
            with pytest.raises(ValueError, match="cannot be detached"):
                sock.detach()

    async with TCPServer(LOCALHOST, Tries, ssl_context=certificates.server_context()) as server:
        await server.start_serving()
        async with tls_client(server.server_address, certificates.client_context()) as (
            reader,
            writer,
        ):
            writer.write(b"x")
            assert await reader.read() == b""
    assert len(errors) == 5
    assert errors[-1] == "the connection is encrypted already"
    assert server.statistics.handlers_failed == 0


# --- STARTTLS ---


class StartTLS(StreamRequestHandler):
    context: ClassVar[ssl.SSLContext]

    async def handle(self) -> None:
        assert await self.rfile.readline() == b"STARTTLS\n"
        await self.wfile.write(b"go ahead\n")
        await self.request.start_tls(self.context)
        async for line in self.rfile:
            await self.wfile.write(line)


async def test_start_tls(certificates: Certificates) -> None:
    StartTLS.context = certificates.server_context()
    async with TCPServer(LOCALHOST, StartTLS) as server:
        await server.start_serving()

        def talk(address: Any) -> tuple[bytes, bytes]:
            with socket.create_connection(address) as sock:
                sock.sendall(b"STARTTLS\n")
                said = sock.recv(100)
                context = certificates.client_context()
                with context.wrap_socket(sock, server_hostname="127.0.0.1") as secured:
                    secured.sendall(b"secret\n")
                    return said, secured.recv(100)

        said, echoed = await asyncio.to_thread(talk, server.server_address)
        assert (said, echoed) == (b"go ahead\n", b"secret\n")
    assert server.statistics.handlers_failed == 0


async def test_plaintext_before_the_handshake_is_an_error(certificates: Certificates) -> None:
    """CVE-2011-0411: it would be taken for what came encrypted."""
    StartTLS.context = certificates.server_context()
    async with TCPServer(LOCALHOST, StartTLS) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"STARTTLS\ninjected\n") == b"go ahead\n"
        await until(lambda: not server.requests())
        assert server.statistics.clients_vanished == 1
        assert server.statistics.handlers_failed == 0


async def test_start_tls_has_the_servers_handshake_timeout(certificates: Certificates) -> None:
    StartTLS.context = certificates.server_context()
    async with TCPServer(LOCALHOST, StartTLS, handshake_timeout=0.1) as server:
        await server.start_serving()
        async with client_of(server.server_address) as client:
            await client.send(b"STARTTLS\n")
            assert await client.receive_all() == b"go ahead\n"
        assert server.statistics.timed_out == {"handshake_timeout": 1}


async def test_nothing_is_written_in_the_middle_of_a_handshake(certificates: Certificates) -> None:
    class Chatty(StreamRequestHandler):
        async def handle(self) -> None:
            async def chat() -> None:
                while True:
                    await self.wfile.write(b"tick\n")
                    await asyncio.sleep(0)

            starting = asyncio.create_task(self.request.start_tls(certificates.server_context()))
            await asyncio.sleep(0)
            chatting = asyncio.create_task(chat())
            await starting
            assert await self.rfile.readline() == b"done\n"
            chatting.cancel()

    async with TCPServer(LOCALHOST, Chatty) as server:
        await server.start_serving()
        async with tls_client(server.server_address, certificates.client_context()) as streams:
            reader, writer = streams
            for _ in range(10):
                assert await reader.readline() == b"tick\n"
            writer.write(b"done\n")
            assert set((await reader.read()).split()) <= {b"tick"}
    assert server.statistics.handlers_failed == 0


# --- options ---


def test_a_context_with_which_nobody_can_connect_is_refused(certificates: Certificates) -> None:
    for context, message in (
        (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), "is a certificate loaded"),
        (certificates.client_context(), "not one for a server"),
    ):
        with pytest.raises(ValueError, match=message):
            TCPServer(LOCALHOST, Echo, ssl_context=context)
    with pytest.raises(ValueError, match=r"ssl_context must be an ssl\.SSLContext or a function"):
        TCPServer(LOCALHOST, Echo, ssl_context="cert.pem")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no option 'ssl_context'"):
        UDPServer(LOCALHOST, Echo, ssl_context=certificates.server_context())
    with pytest.raises(TypeError, match=r"must return an ssl\.SSLContext, and returned None"):
        TCPServer(LOCALHOST, Echo, ssl_context=lambda: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("kind", [TCPServer, ThreadingTCPServer, GreenletTCPServer])
@pytest.mark.parametrize("checks_names", [False, True])
def test_a_context_for_clients_is_refused(
    kind: Any, checks_names: bool, certificates: Certificates
) -> None:
    context = certificates.client_context()
    context.check_hostname = checks_names
    handler = Echo if kind is TCPServer else LegacyEcho
    for given in (context, lambda: context):
        with pytest.raises(ValueError, match=r"not one for a server: .*CLIENT_AUTH"):
            kind(LOCALHOST, handler, ssl_context=given)


async def test_reload_with_a_context_for_clients_is_refused(certificates: Certificates) -> None:
    contexts = [certificates.client_context(), certificates.server_context()]
    async with TCPServer(LOCALHOST, Echo, ssl_context=contexts.pop) as server:
        with pytest.raises(ValueError, match="ssl_context is not one for a server"):
            server.reload_tls()


async def test_start_tls_with_a_context_for_clients_is_the_handlers_error(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    StartTLS.context = certificates.client_context()
    async with TCPServer(LOCALHOST, StartTLS) as server:
        await server.start_serving()
        assert await ask(server.server_address, b"STARTTLS\n") == b"go ahead\n"
        await until(lambda: not server.requests())
    assert server.statistics.handlers_failed == 1
    assert server.statistics.clients_vanished == 0
    assert "ValueError: start_tls() needs a context for a server" in caplog.text


def test_the_error_names_the_option(certificates: Certificates) -> None:
    assert str(TimedOut("handshake_timeout")).endswith("handshake_timeout has passed")

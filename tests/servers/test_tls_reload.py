"""New certificates in a server that goes on: `reload_tls`, and files that are looked at."""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from aiosocketserver import CertificateFiles, StreamRequestHandler, TCPServer
from tests.support import until, until_later
from tests.tls_support import Certificates, tls_client

LOCALHOST = ("127.0.0.1", 0)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path, "old.example")


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


def names_of(writer: asyncio.StreamWriter) -> list[str]:
    certificate: Any = writer.get_extra_info("ssl_object").getpeercert()
    return [name for kind, name in certificate["subjectAltName"] if kind == "DNS"]


async def served_names(server: TCPServer, certificates: Certificates) -> list[str]:
    async with tls_client(server.server_address, certificates.client_context()) as (_, writer):
        return names_of(writer)


def files(certificates: Certificates) -> CertificateFiles:
    return CertificateFiles(certificates.certfile, certificates.keyfile)


async def test_new_connections_have_the_new_certificate(certificates: Certificates) -> None:
    async with TCPServer(LOCALHOST, Echo, ssl_context=files(certificates)) as server:
        await server.start_serving()
        client = certificates.client_context()
        async with tls_client(server.server_address, client) as (reader, writer):
            assert names_of(writer) == ["old.example"]
            certificates.renew("new.example")
            server.reload_tls()
            assert await served_names(server, certificates) == ["new.example"]
            # The one from before goes on.
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"


async def test_relative_names_stay_those_of_the_directory_where_they_were_given(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = CertificateFiles(
        certificates.certfile.name,
        Path(certificates.keyfile.name),
        client_ca_file=certificates.ca_file.name,
    )
    monkeypatch.chdir("/")
    assert context.files == (
        str(certificates.certfile),
        str(certificates.keyfile),
        str(certificates.ca_file),
    )
    async with TCPServer(LOCALHOST, Echo, ssl_context=context) as server:
        server.reload_tls()


def spoil_key(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates.make(tmp_path / "other")
    certificates.keyfile.write_bytes(other.keyfile.read_bytes())


async def test_what_does_not_fit_leaves_the_old_one(
    certificates: Certificates, tmp_path: Path
) -> None:
    async with TCPServer(LOCALHOST, Echo, ssl_context=files(certificates)) as server:
        await server.start_serving()
        spoil_key(certificates, tmp_path)
        with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH") as caught:
            server.reload_tls()
        assert str(certificates.keyfile) in caught.value.__notes__[0]
        assert await served_names(server, certificates) == ["old.example"]
        certificates.keyfile.unlink()
        with pytest.raises(FileNotFoundError):
            server.reload_tls()
        assert await served_names(server, certificates) == ["old.example"]


async def test_a_context_without_a_certificate_is_not_taken(certificates: Certificates) -> None:
    contexts = [
        certificates.server_context(),
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
    ]
    async with TCPServer(LOCALHOST, Echo, ssl_context=lambda: contexts.pop(0)) as server:
        await server.start_serving()
        with pytest.raises(ValueError, match="is a certificate loaded"):
            server.reload_tls()
        assert await served_names(server, certificates) == ["old.example"]


async def test_files_that_change_are_loaded(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aiosocketserver")
    async with TCPServer(
        LOCALHOST, Echo, ssl_context=files(certificates), tls_reload_interval=0.02
    ) as server:
        await server.start_serving()
        spoil_key(certificates, tmp_path)
        await until_later(lambda: "are not used" in caplog.text)
        assert await served_names(server, certificates) == ["old.example"]
        # Told once, and not at each look.
        await asyncio.sleep(0.1)
        assert caplog.text.count("are not used") == 1
        certificates.renew("new.example")
        await until_later(lambda: "were loaded" in caplog.text)
        assert await served_names(server, certificates) == ["new.example"]
    assert server._watch is None


async def test_a_context_cannot_be_made_anew(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="tells its `files`"):
        TCPServer(LOCALHOST, Echo, ssl_context=certificates.server_context(), tls_reload_interval=1)
    async with TCPServer(LOCALHOST, Echo, ssl_context=certificates.server_context()) as server:
        with pytest.raises(RuntimeError, match="give the server, as ssl_context, a function"):
            server.reload_tls()
    async with TCPServer(LOCALHOST, Echo) as server:
        with pytest.raises(RuntimeError, match="has no ssl_context"):
            server.reload_tls()


async def test_client_certificates_and_alpn_from_files(certificates: Certificates) -> None:
    context = CertificateFiles(
        certificates.certfile,
        certificates.keyfile,
        client_ca_file=certificates.ca_file,
        alpn_protocols=["echo"],
    )
    assert str(certificates.ca_file) in repr(context)
    async with TCPServer(LOCALHOST, Echo, ssl_context=context) as server:
        await server.start_serving()
        client = certificates.client_context()
        client.set_alpn_protocols(["echo"])
        async with tls_client(server.server_address, client) as (reader, _):
            # TLS 1.3: the client finds out when it reads.
            with pytest.raises(ssl.SSLError):
                await reader.read(1)
        await until(lambda: server.statistics.handshakes_failed == 1)
        certificates.authority.issue_cert("me@example.org").configure_cert(client)
        async with tls_client(server.server_address, client) as (reader, writer):
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "echo"
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"

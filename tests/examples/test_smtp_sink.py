"""smtp_sink.py, with swaks, smtplib and clients that misbehave."""

import contextlib
import email
import email.policy
import errno
import functools
import mailbox
import os
import signal
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from aiosocketserver import serving
from examples.smtp_sink import MAX_COMMANDS, MAX_ERRORS, MAX_MESSAGE, MAX_RECIPIENTS, Session
from tests.deploy_support import Command, receive_all
from tests.example_support import LOOPS, TIMEOUT, problem, running
from tests.tls_support import Certificates

ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
KEPT_ENVELOPE = b"Return-Path: <a@b>\nDelivered-To: c@d\n"


class Sink:
    """A running program, and the folder of its messages."""

    def __init__(self, program: Command, maildir: Path) -> None:
        self.program = program
        self.maildir = maildir
        (self.port,) = program.ports

    def connect(self) -> socket.socket:
        """A client that has read the greeting."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        assert line_from(client).startswith(b"220 ")
        return client

    def session(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, timeout=TIMEOUT)

    def talk(self, said: bytes) -> list[int]:
        """The codes of its replies to a client that says this, and then nothing more."""
        with self.connect() as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            return codes(receive_all(client))

    def messages(self) -> list[bytes]:
        """What it has kept since the last call."""
        paths = list((self.maildir / "new").iterdir())
        messages = [path.read_bytes() for path in paths]
        for path in paths:
            path.unlink()
        assert list((self.maildir / "tmp").iterdir()) == []
        return messages


@contextlib.contextmanager
def running_sink(loop: str, folder: Path, *arguments: str) -> Generator[Sink]:
    maildir = folder / "mail"
    arguments = ("--maildir", str(maildir), *arguments, "tcp://127.0.0.1:0")
    with running("smtp_sink", *arguments, loop=loop, folder=folder) as program:
        yield Sink(program, maildir)


def line_from(client: socket.socket) -> bytes:
    """The next line, byte by byte, so that nothing behind it is taken."""
    line = b""
    while not line.endswith(b"\n"):
        byte = client.recv(1)
        assert byte, f"the connection ended after {line!r}"
        line += byte
    return line


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.splitlines() if line[3:4] == b" "]


def say(client: socket.socket, said: bytes) -> int:
    """Say one thing; the code of the reply."""
    client.sendall(said)
    while (line := line_from(client))[3:4] == b"-":
        pass
    return int(line[:3])


@pytest.fixture(scope="module", params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def sink(loop: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    """One for all tests that leave it as they found it."""
    with running_sink(loop, tmp_path_factory.mktemp("sink")) as sink:
        yield sink


@pytest.fixture
def swaks(require_program: Callable[[str], str]) -> Callable[..., str]:
    def run(sink: Sink, *arguments: str) -> str:
        command = [require_program("swaks"), "--server", f"127.0.0.1:{sink.port}", *arguments]
        command += ["--from", "me@example.com", "--to", "you@example.com"]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=TIMEOUT
        ).stdout

    return run


class TestRealClients:
    def test_swaks_sends_an_attachment(
        self, sink: Sink, swaks: Callable[..., str], tmp_path: Path
    ) -> None:
        attachment = tmp_path / "attachment"
        attachment.write_bytes(os.urandom(100_000))
        swaks(sink, "--header", "Subject: a picture", "--attach", f"@{attachment}")
        (kept,) = sink.messages()
        message = email.message_from_bytes(kept, policy=email.policy.default)
        assert message["Return-Path"] == "<me@example.com>"
        assert message["Delivered-To"] == "you@example.com"
        assert message["Subject"] == "a picture"
        (part,) = message.iter_attachments()
        assert part.get_content() == attachment.read_bytes()

    def test_smtplib_sends_to_as_many_recipients_as_are_taken(self, sink: Sink) -> None:
        recipients = [f"{number}@example.com" for number in range(MAX_RECIPIENTS + 1)]
        with sink.session() as session:
            refused = session.sendmail("me@example.com", recipients, "Subject: all\r\n\r\n.\r\n")
        assert {who: code for who, (code, _) in refused.items()} == {recipients[-1]: 452}
        (kept,) = sink.messages()
        message = email.message_from_bytes(kept)
        assert message.get_all("Delivered-To") == recipients[:-1]
        assert message.get_payload() == ".\n"

    def test_a_message_that_is_announced_as_too_large_is_refused_before_it_is_sent(
        self, sink: Sink
    ) -> None:
        with sink.session() as session:
            session.ehlo()
            assert session.esmtp_features["size"] == str(MAX_MESSAGE)
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                session.sendmail("a@b", "c@d", b"x" * (MAX_MESSAGE + 1))
            assert refused.value.smtp_code == 552

    def test_a_message_that_is_too_large_without_a_word_is_read_and_refused(
        self, sink: Sink
    ) -> None:
        line = b"x" * 998 + b"\r\n"
        with sink.session() as session:
            session.helo()
            for size, code in ((MAX_MESSAGE + 20_000, 552), (MAX_MESSAGE, 250)):
                session.mail("a@b")
                session.rcpt("c@d")
                assert session.data(line * (size // len(line)))[0] == code
        (kept,) = sink.messages()
        assert len(kept) > MAX_MESSAGE - 20_000


@contextlib.contextmanager
def running_with_tls(loop: str, folder: Path) -> Generator[tuple[Sink, Certificates]]:
    made = Certificates.make(folder)
    files = ["--certfile", str(made.certfile), "--keyfile", str(made.keyfile)]
    with running_sink(loop, folder, *files) as sink:
        yield sink, made


def test_swaks_over_tls(
    loop: str, tmp_path: Path, swaks: Callable[..., str], skip_for_want_of: Callable[[str], None]
) -> None:
    with running_with_tls(loop, tmp_path) as (sink, made):
        try:
            said = swaks(sink, "--tls", "--tls-verify", "--tls-ca-path", str(made.ca_file))
        except subprocess.CalledProcessError as error:
            if "requires Net::SSLeay" in error.stderr:
                skip_for_want_of("swaks has no TLS, for want of Perl's Net::SSLeay")
            raise
        assert "TLS started" in said
        assert len(sink.messages()) == 1


def test_starttls(loop: str, tmp_path: Path) -> None:
    with running_with_tls(loop, tmp_path) as (sink, made):
        with sink.session() as session:
            session.ehlo()
            session.mail("before@example.com")
            session.starttls(context=made.client_context())
            # What was said before has been forgotten, and TLS is not offered twice.
            assert session.rcpt("c@d")[0] == 503
            assert session.mail("a@b")[0] == 503
            session.ehlo()
            assert not session.has_extn("starttls")
            assert session.docmd("STARTTLS")[0] == 503
            session.sendmail("a@b", "c@d", "hidden")
        assert sink.messages() == [KEPT_ENVELOPE + b"hidden\n"]

        # What is pipelined behind STARTTLS came unencrypted, from whoever is in between.
        with sink.connect() as client:
            client.sendall(b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@b>\r\n")
            assert codes(receive_all(client)) == [250, 220, 421]

        # SIGTERM between two commands of an encrypted session.
        with sink.session() as session:
            session.starttls(context=made.client_context())
            session.ehlo()
            sink.program.process.send_signal(signal.SIGTERM)
            assert session.getreply()[0] == 421
        assert sink.program.wait() == 0


class TestDialogue:
    @pytest.mark.parametrize("size", [1, 7, 10_000])
    def test_commands_and_mail_come_in_any_pieces(self, sink: Sink, size: int) -> None:
        said = ENVELOPE + b"DATA\r\nfirst\r\n.\r\n" + ENVELOPE + b"DATA\r\n.\r\nQUIT\r\n"
        with sink.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(said), size):
                client.sendall(said[start : start + size])
            once = [250, 250, 250, 354, 250]
            assert codes(receive_all(client)) == [*once, *once, 221]
        assert sorted(sink.messages()) == [KEPT_ENVELOPE, KEPT_ENVELOPE + b"first\n"]

    def test_text_is_kept_as_it_is_but_for_doubled_dots(self, sink: Sink) -> None:
        other = bytes(set(range(256)) - set(b"\r\n"))
        text = b"..\r\n...\r\n..a\r\n" + other + b"\r\n" + b"." + b"y" * 998 + b"\r\n\r\n"
        replies = sink.talk(ENVELOPE + b"DATA\r\n" + text + b".\r\nRCPT TO:<c@d>\r\n")
        assert replies == [250, 250, 250, 354, 250, 503, 421]
        kept = b".\n..\n.a\n" + other + b"\n" + b"y" * 998 + b"\n\n"
        assert sink.messages() == [KEPT_ENVELOPE + kept]

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            (b"MAIL FROM:<a@b>", [503]),
            (
                b"helo x\r\nmail from: <a@b>  \r\nrcpt to: <c@d>\r\nrset\r\nrcpt to:<c@d>",
                [250] * 4 + [503],
            ),
            (b"EHLO x\r\nRCPT TO:<a@b>\r\nDATA", [250, 503, 503]),
            (b"EHLO x\r\nMAIL FROM:<>\r\nMAIL FROM:<a@b>\r\nDATA", [250, 250, 503, 503]),
            (b"EHLO x\r\nMAIL FROM:<a@b>\r\nEHLO x\r\nRCPT TO:<a@b>", [250, 250, 250, 503]),
            (b"EHLO x\r\nMAIL FROM:<a@b> BODY=8BITMIME SIZE=5\r\nRCPT TO:<>", [250, 250, 500]),
            (b"EHLO x\r\nMAIL FROM:<a@b> SIZE=99999999999999999999", [250, 552]),
            (b"EHLO x\r\nMAIL FROM:<a@b> SMTPUTF8\r\nMAIL FROM:a@b", [250, 500, 500]),
            (b'EHLO x\r\nMAIL FROM:<"> <"@b>\r\nRCPT TO:<"a\\" b"@c>', [250] * 3),
            (b"NOOP\r\nNOOP x y\r\nVRFY a\r\nSTARTTLS\r\nQUIT\r\nNOOP", [250, 250, 252, 503, 221]),
            (
                b"EHLO\r\nHELO a b\r\nQUIT now\r\nDATA x\r\nEXPN a\r\n\r\n \r\nGET / HTTP/1.1",
                [500] * 8,
            ),
        ],
    )
    def test_replies(self, sink: Sink, said: bytes, expected: list[int]) -> None:
        end = [] if expected[-1] == 221 else [421]
        assert sink.talk(said + b"\r\n") == expected + end
        assert sink.messages() == []


class TestHostileClients:
    @pytest.mark.parametrize(
        "end",
        [
            b"\n.\n",
            b"\n.\r\n",
            b"\r.\r",
            b"\r.\r\n",
            b"\r\n.\n",
            b"\r\n.\r",
            b"\r\n.\r\r\n",
            b"\n\n.\r\n",
        ],
        ids=repr,
    )
    def test_nothing_but_crlf_dot_crlf_ends_a_message(self, sink: Sink, end: bytes) -> None:
        smuggled = ENVELOPE + b"DATA\r\nsmuggled\r\n.\r\n"
        replies = sink.talk(ENVELOPE + b"DATA\r\ntext" + end + smuggled)
        assert replies == [250, 250, 250, 354, 554]
        assert sink.messages() == []

    @pytest.mark.parametrize(
        "said",
        [b"EHLO x\n", b"EHLO x\rNOOP\r\n", b"MAIL FROM:<a@b\nBcc: c@d>\r\n", b"NOOP \xff\r\n"],
    )
    def test_commands_are_ascii_and_end_in_crlf(self, sink: Sink, said: bytes) -> None:
        assert set(sink.talk(said)) == {500, 421}

    def test_a_line_that_is_too_long_ends_the_session(self, sink: Sink) -> None:
        assert sink.talk(b"NOOP " + b"x" * 1000 + b"\r\n") == [500]
        message = ENVELOPE + b"DATA\r\n" + b"x" * 1000 + b"\r\n.\r\n"
        assert sink.talk(message) == [250, 250, 250, 354, 500]
        assert sink.messages() == []

    def test_rubbish_and_floods_end_the_session(self, sink: Sink) -> None:
        assert sink.talk(b"rubbish\r\n" * 100) == [500] * (MAX_ERRORS + 1) + [421]
        assert sink.talk(b"NOOP\r\n" * (MAX_COMMANDS + 100)) == [250] * MAX_COMMANDS + [421]
        for _ in range(20):
            assert set(sink.talk(os.urandom(3000))) <= {500, 421}
        client = ssl.create_default_context()
        with pytest.raises(ssl.SSLError), sink.connect() as plain:
            client.wrap_socket(plain, server_hostname="localhost")
        assert sink.talk(b"NOOP\r\n") == [250, 421]

    @pytest.mark.parametrize("cut", [b"half of a", b"half of a\r\n", b"half of a\r\n."])
    def test_half_a_message_is_not_kept(self, sink: Sink, cut: bytes) -> None:
        assert sink.talk(ENVELOPE + b"DATA\r\n" + cut)[:4] == [250, 250, 250, 354]
        assert sink.messages() == []


def test_a_message_is_there_after_kill(loop: str, tmp_path: Path) -> None:
    with running_sink(loop, tmp_path) as sink, sink.connect() as client:
        say(client, b"HELO x\r\n")
        say(client, b"MAIL FROM:<a@b>\r\n")
        say(client, b"RCPT TO:<c@d>\r\n")
        say(client, b"DATA\r\n")
        assert say(client, b"text\r\n.\r\n") == 250
        assert sink.program.end(signal.SIGKILL) == -signal.SIGKILL
        assert sink.messages() == [KEPT_ENVELOPE + b"text\n"]


def test_250_comes_after_the_file_and_its_folder_are_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir = mailbox.Maildir(tmp_path / "mail")
    new = os.open(tmp_path / "mail" / "new", os.O_RDONLY)
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if descriptor == new:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    session = functools.partial(Session, maildir=maildir, new=new, tls=None)
    with serving(session) as address, socket.create_connection(address, TIMEOUT) as client:
        client.sendall(ENVELOPE + b"DATA\r\n.\r\n")
        assert codes(receive_all(client)) == [220, 250, 250, 250, 354, 421]
    os.close(new)
    assert len(synced) == 2
    assert synced[1] == new


def test_sigterm_ends_between_commands_and_after_the_message(loop: str, tmp_path: Path) -> None:
    with (
        running_sink(loop, tmp_path) as sink,
        sink.connect() as idle,
        sink.connect() as sending,
    ):
        assert say(idle, b"EHLO x\r\n") == 250
        sending.sendall(ENVELOPE + b"DATA\r\nfirst\r\n")
        while not line_from(sending).startswith(b"354"):
            pass
        sink.program.process.send_signal(signal.SIGTERM)
        assert codes(receive_all(idle)) == [421]
        sending.sendall(b"last\r\n.\r\n")
        assert codes(receive_all(sending)) == [250, 421]
        assert sink.program.wait() == 0
        assert sink.messages() == [KEPT_ENVELOPE + b"first\nlast\n"]


def test_it_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    assert "No such file" in problem("smtp_sink", "--maildir", str(tmp_path))
    maildir = str(tmp_path / "mail")
    said = problem("smtp_sink", "--maildir", maildir, "--certfile", str(tmp_path / "none.pem"))
    assert "none.pem" in said
    assert "cannot bind" in problem("smtp_sink", "--maildir", maildir, "tcp://127.0.0.1:x")

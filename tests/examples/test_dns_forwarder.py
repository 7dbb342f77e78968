"""dns_forwarder.py, with dig and raw packets, and an upstream that does as the asked name says."""

import contextlib
import os
import random
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dnslib import RCODE, DNSRecord  # type: ignore[import-untyped]

from tests.dns_support import (
    Forwarder,
    Upstream,
    framed,
    query,
    running_forwarder,
)
from tests.example_support import LOOPS, TIMEOUT, problem, running
from tests.port_support import free_port


@pytest.fixture(scope="module", params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def forwarder(loop: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forwarder]:
    """One for all tests; each asks for names of its own, or for those that are not kept."""
    with running_forwarder(loop, tmp_path_factory.mktemp("forwarder")) as forwarder:
        yield forwarder


@pytest.fixture
def dig(forwarder: Forwarder, require_program: Callable[[str], str]) -> Callable[..., str]:
    host, port = forwarder.address

    def run(*arguments: str) -> str:
        command = [require_program("dig"), f"@{host}", "-p", str(port), "+time=10", "+tries=1"]
        return subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True, timeout=TIMEOUT
        ).stdout

    return run


class TestDig:
    @pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
    def test_addresses(self, dig: Callable[..., str], transport: str) -> None:
        assert dig("+short", transport, "a.test", "A") == "192.0.2.1\n"
        assert dig("+short", transport, "a.test", "AAAA") == "2001:db8::1\n"

    def test_a_name_or_a_record_that_there_is_not(self, dig: Callable[..., str]) -> None:
        said = dig("none.test")
        assert "status: NXDOMAIN" in said
        assert "ns.test. root.test." in said
        said = dig("a.test", "MX")
        assert "status: NOERROR" in said
        assert "ANSWER: 0" in said

    def test_what_does_not_fit_is_cut_and_comes_on_tcp(self, dig: Callable[..., str]) -> None:
        text = " ".join(['"' + 200 * "x" + '"'] * 10) + "\n"
        said = dig("+ignore", "txt2000.test", "TXT")
        assert re.search("flags: qr [a-z ]*tc", said)
        assert "ANSWER: 0" in said
        assert dig("+short", "+tcp", "txt2000.test", "TXT") == text
        # dig asks again on TCP by itself.
        assert dig("+short", "txt2000.test", "TXT") == text

    def test_several_questions_on_one_connection(self, dig: Callable[..., str]) -> None:
        said = dig("+short", "+tcp", "+keepopen", "a.test", "b.test", "AAAA", "a.test", "A")
        assert said == "192.0.2.1\n192.0.2.1\n"

    def test_edns_is_answered_with_edns(self, dig: Callable[..., str]) -> None:
        assert "EDNS: version: 0, flags:; udp: 1232" in dig("a.test")
        assert "EDNS" not in dig("+noedns", "a.test")


def test_replies_are_no_longer_than_the_client_takes(forwarder: Forwarder) -> None:
    for name, size, whole in [
        ("txt450.test", None, True),
        ("txt490.test", None, False),
        ("txt490.test", 600, True),
        ("txt600.test", 600, False),
        ("txt1150.test", 4096, True),
        ("txt1200.test", 4096, False),
    ]:
        reply = forwarder.ask(name, "TXT", size)
        assert (len(reply.rr), reply.header.tc) == ((1, 0) if whole else (0, 1)), (name, size)
        assert str(reply.q.qname) == f"{name}."


class TestKeeping:
    def test_answers_are_kept_and_grow_old(self, forwarder: Forwarder) -> None:
        first = forwarder.ask("old.test")
        assert first.rr[0].ttl == 300
        deadline = time.monotonic() + TIMEOUT
        while (reply := forwarder.ask("old.test")).rr[0].ttl == 300:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert str(reply.rr[0].rdata) == "192.0.2.2"
        assert forwarder.upstream.asked["old"] == 1

    @pytest.mark.parametrize("name", ["second", "briefly"])
    def test_until_they_are_not_valid_any_more(self, forwarder: Forwarder, name: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while forwarder.upstream.asked[name] < 2:
            forwarder.ask(f"{name}.test")
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def test_what_is_valid_for_no_time_is_not_kept(self, forwarder: Forwarder) -> None:
        forwarder.ask("never.test")
        forwarder.ask("never.test")
        assert forwarder.upstream.asked["never"] >= 2

    def test_that_there_is_no_such_name_is_kept_if_its_soa_is_there(
        self, forwarder: Forwarder
    ) -> None:
        for name, times in (("nothing", 1), ("unsaid", 2)):
            for _ in range(2):
                assert forwarder.ask(f"{name}.test").header.rcode == RCODE.NXDOMAIN
            assert forwarder.upstream.asked[name] == times

    def test_the_same_is_not_asked_twice_at_once(self, forwarder: Forwarder) -> None:
        forwarder.upstream.gate.clear()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(forwarder.on_udp()) for _ in range(20)]
            for client in clients:
                client.send(query("slow.test"))
            # This one came after all of them.
            forwarder.ask("never.test")
            forwarder.upstream.gate.set()
            for client in clients:
                assert str(DNSRecord.parse(client.recv(512)).a.rdata) == "192.0.2.5"
        assert forwarder.upstream.asked["slow"] == 1

    def test_everybody_gets_the_own_id_and_spelling(self, forwarder: Forwarder) -> None:
        for name in ("a.test", "A.test", "a.TeSt"):
            packet = query(name)
            reply = forwarder.exchange(packet)
            assert reply[:2] == packet[:2]
            assert str(DNSRecord.parse(reply).q.qname) == f"{name}."


class TestUpstream:
    def test_each_query_has_another_id_and_comes_from_another_port(
        self, forwarder: Forwarder
    ) -> None:
        forwarder.upstream.sources.clear()
        for _ in range(20):
            forwarder.ask("never.test")
        ids, ports = map(set, zip(*forwarder.upstream.sources, strict=True))
        # Of 65,536 and of 28,000 some may be the same by chance.
        assert len(ids) > 15
        assert len(ports) > 15

    def test_lies_and_strangers_are_not_believed(self, forwarder: Forwarder) -> None:
        assert str(forwarder.ask("lied.test").a.rdata) == "192.0.2.6"
        assert forwarder.upstream.asked["lied"] == 1
        assert str(forwarder.ask("forged.test").a.rdata) == "192.0.2.7"

    def test_what_is_lost_is_asked_again(self, forwarder: Forwarder) -> None:
        assert str(forwarder.ask("lost.test").a.rdata) == "192.0.2.8"
        assert forwarder.upstream.asked["lost"] == 2

    def test_what_dnslib_would_garble_is_not_passed_on(self, forwarder: Forwarder) -> None:
        with forwarder.on_tcp() as client:
            client.sendall(framed(query("txt20000.test", "TXT")))
            assert DNSRecord.parse(message_from(client)).header.rcode == RCODE.SERVFAIL


def test_an_upstream_that_is_not_there(loop: str, tmp_path: Path) -> None:
    arguments = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    with running("dns_forwarder", *arguments, loop=loop, folder=tmp_path) as program:
        forwarder = Forwarder(program, Upstream())
        assert forwarder.ask("a.test").header.rcode == RCODE.SERVFAIL


def message_from(client: socket.socket) -> bytes:
    """The next message on TCP."""
    with client.makefile("rb", buffering=0) as file:
        size = int.from_bytes(file.read(1) + file.read(1), "big")
        message = b""
        while len(message) < size:
            block = file.read(size - len(message))
            assert block
            message += block
        return message


class TestTCP:
    @pytest.mark.parametrize("size", [1, 7, 1000])
    def test_queries_come_in_any_pieces(self, forwarder: Forwarder, size: int) -> None:
        queries = [query("a.test"), query("b.test"), query("txt2000.test", "TXT")]
        said = b"".join(map(framed, queries))
        with forwarder.on_tcp() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(said), size):
                client.sendall(said[start : start + size])
            for packet in queries:
                assert message_from(client)[:2] == packet[:2]
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""

    def test_an_answer_does_not_wait_for_the_one_before(self, forwarder: Forwarder) -> None:
        forwarder.upstream.gate.clear()
        slow, quick = query("slow.test", "TXT"), query("a.test")
        with forwarder.on_tcp() as client:
            client.sendall(framed(slow) + framed(quick))
            assert message_from(client)[:2] == quick[:2]
            # More than are served at once; the rest waits in the socket.
            client.sendall(framed(slow) * 30)
            client.shutdown(socket.SHUT_WR)
            forwarder.upstream.gate.set()
            for _ in range(31):
                assert message_from(client)[:2] == slow[:2]
            assert client.recv(1) == b""

    def test_a_reset_with_queries_under_way_harms_nobody(self, forwarder: Forwarder) -> None:
        forwarder.upstream.gate.clear()
        slow = query("slow.test", "AAAA")
        with forwarder.on_udp() as other, forwarder.on_tcp() as client:
            client.sendall(framed(slow) * 3 + framed(query("a.test")))
            message_from(client)
            other.send(slow)
            # This one came after it.
            forwarder.ask("never.test")
            name = str(client.getsockname())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            forwarder.program.until(f"the client {re.escape(name)} was lost")
            forwarder.upstream.gate.set()
            # Who waits for the same answer has not lost it.
            assert other.recv(512)[:2] == slow[:2]

    @pytest.mark.parametrize("said", [b"\0", b"\0\x20half", b"\0\0", b"\xff\xff" + b"x" * 70_000])
    def test_rubbish_gets_no_answer(self, forwarder: Forwarder, said: bytes) -> None:
        with forwarder.on_tcp() as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""


# The header of a query, behind its id: flags, and the numbers of what follows.
COUNTS = b"\0\1\0\0\0\0\0\0"
NAME = b"\1a\4test\0\0\1\0\1"


class TestMalformed:
    @pytest.mark.parametrize(
        ("rest", "rcode"),
        [
            (b"\1\0" + COUNTS, RCODE.FORMERR),  # no question
            (b"\1\0" + COUNTS + NAME[:-1], RCODE.FORMERR),
            (b"\1\0\0\2\0\0\0\0\0\0" + NAME + NAME, RCODE.FORMERR),
            (b"\1\0\0\1\0\1\0\0\0\0" + NAME, RCODE.FORMERR),
            (b"\1\0" + COUNTS + b"\xc0\x0c\0\1\0\1", RCODE.FORMERR),  # a name that is itself
            (b"\1\0" + COUNTS + b"\x7f" + 127 * b"x" + NAME, RCODE.FORMERR),  # a label too long
            (b"\1\0" + COUNTS + 60 * b"\4long" + NAME, RCODE.FORMERR),
            (b"\1\0" + COUNTS + b"\2\xff\xfe" + NAME, RCODE.FORMERR),
            # CAA, which is no text.
            (
                b"\1\0\0\1\0\0\0\0\0\1" + NAME + b"\0\1\1\0\1" + bytes(4) + b"\0\5\0\1\xff\xff\xff",
                RCODE.FORMERR,
            ),
            (b"\x11\0" + COUNTS + NAME, RCODE.NOTIMP),  # STATUS
            (b"\x29\0" + bytes(8), RCODE.NOTIMP),  # UPDATE
        ],
    )
    def test_it_is_told(self, forwarder: Forwarder, rest: bytes, rcode: int) -> None:
        reply = forwarder.exchange(b"id" + rest)
        assert reply[:2] == b"id"
        assert reply[2] >= 0x80
        assert reply[2] & 0x78 == rest[0] & 0x78
        assert reply[3] & 0x0F == rcode
        assert reply[4:] == bytes(8)

    def test_answers_and_scraps_get_no_answer(self, forwarder: Forwarder) -> None:
        answer = DNSRecord.question("a.test").reply()
        with forwarder.on_udp() as client:
            # The last one would be told at once that it is malformed.
            for packet in (b"", b"x", bytes(11), bytes(5000), answer.pack(), b"id\x81\0" + COUNTS):
                client.send(packet)
            last = query("a.test")
            client.send(last)
            assert client.recv(512)[:2] == last[:2]

    def test_floods_of_rubbish_harm_nobody(
        self, forwarder: Forwarder, dig: Callable[..., str]
    ) -> None:
        packet = query("a.test", size=1232)
        with forwarder.on_udp() as client, forwarder.on_tcp() as stream:
            for number in range(3000):
                broken = bytearray(packet)
                broken[random.randrange(2, len(packet))] = random.randrange(256)
                client.send(broken if number % 2 else os.urandom(number % 600))
            for _ in range(100):
                stream.sendall(framed(os.urandom(100)))
        # What came while the queue was full is dropped: a client asks again, as any does.
        # It tells of each time that it had to.
        answer = dig("+short", "+tries=30", "+time=1", "a.test")
        assert [each for each in answer.splitlines() if each[:2] != ";;"] == ["192.0.2.1"]


def test_sigterm_answers_what_is_asked_and_ends_idle_connections(loop: str, tmp_path: Path) -> None:
    with (
        running_forwarder(loop, tmp_path) as forwarder,
        forwarder.on_udp() as waiting,
        forwarder.on_tcp() as idle,
    ):
        idle.sendall(framed(query("a.test")))
        message_from(idle)
        waiting.send(query("slow.test"))
        # This one came after it.
        forwarder.ask("never.test")
        forwarder.program.process.send_signal(signal.SIGTERM)
        assert idle.recv(1) == b""
        forwarder.upstream.gate.set()
        assert str(DNSRecord.parse(waiting.recv(512)).a.rdata) == "192.0.2.5"
        idle.close()
        assert forwarder.program.wait() == 0


def test_it_says_in_one_line_what_is_wrong() -> None:
    assert "'dns.test' does not appear" in problem("dns_forwarder", "dns.test", "127.0.0.1:0")
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "in use" in problem("dns_forwarder", "127.0.0.1", place)

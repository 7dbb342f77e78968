"""dns_forwarder.py: an upstream that gives no answers, and clients who ask for too many."""

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dnslib import RCODE, DNSRecord  # type: ignore[import-untyped]

from aiosocketserver import ServerOptions, serving
from examples import dns_forwarder
from tests.dns_support import query, running_forwarder, running_upstream
from tests.example_support import TIMEOUT


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A client of a forwarder in this process, of which the test may change what it likes."""
    monkeypatch.setattr(dns_forwarder, "answers", {})
    monkeypatch.setattr(dns_forwarder, "asked", {})
    with running_upstream() as (_, port):
        monkeypatch.setattr(dns_forwarder.Forward, "upstream", ("127.0.0.1", port), raising=False)
        options: ServerOptions = {**dns_forwarder.ON_UDP, "shutdown_timeout": 0}
        with (
            serving(dns_forwarder.OnUDP, "udp://127.0.0.1:0", **options) as address,
            socket.socket(type=socket.SOCK_DGRAM) as client,
        ):
            client.settimeout(TIMEOUT)
            client.connect(address)
            yield client


@pytest.fixture
def ask(client: socket.socket) -> Callable[[str], DNSRecord]:
    def ask(name: str) -> DNSRecord:
        client.send(query(name))
        return DNSRecord.parse(client.recv(512))

    return ask


# Many lies are an attack, after which it asks from another port at once.
@pytest.mark.parametrize(("kind", "timeout"), [("silent", 0.1), ("liar", 3 * TIMEOUT)])
def test_an_upstream_that_gives_no_answer(
    kind: str, timeout: float, ask: Callable[[str], DNSRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_forwarder, "TIMEOUT", timeout)
    reply = ask(f"{kind}.test")
    assert reply.header.rcode == RCODE.SERVFAIL
    assert str(reply.q.qname) == f"{kind}.test."


def test_the_oldest_answers_make_room(
    ask: Callable[[str], DNSRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_forwarder, "MAX_KEPT", 2)
    for name in ("a.test", "b.test", "old.test"):
        assert ask(name).rr
    assert [b"old" in key or b"b" in key for key in dns_forwarder.answers] == [True, True]


def test_answers_that_are_used_stay(
    ask: Callable[[str], DNSRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_forwarder, "MAX_KEPT", 2)
    for name in ("a.test", "b.test", "a.test", "old.test"):
        assert ask(name).rr
    assert [b"old" in key or b"\1a" in key for key in dns_forwarder.answers] == [True, True]


def test_what_has_no_answer_takes_no_place_of_an_answer(
    ask: Callable[[str], DNSRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_forwarder, "MAX_KEPT", 1)
    monkeypatch.setattr(dns_forwarder, "TIMEOUT", 0.05)
    assert ask("a.test").rr
    for number in range(3):
        assert ask(f"silent.{number}.test").header.rcode == RCODE.SERVFAIL
    assert [b"\1a\4test" in key for key in dns_forwarder.answers] == [True]
    assert not dns_forwarder.asked


@pytest.mark.parametrize(("asked", "waiting"), [(2, 50), (200, 2)])
def test_one_of_too_many_is_told_that_there_is_no_answer(
    asked: int, waiting: int, client: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_forwarder, "MAX_ASKED", asked)
    monkeypatch.setattr(dns_forwarder, "MAX_WAITING", waiting)
    monkeypatch.setattr(dns_forwarder, "TIMEOUT", 3 * TIMEOUT)
    # Of several questions the oldest gives way; of those who wait for one answer, the newest.
    names = [f"silent.{number}.test" for number in range(3)] if asked == 2 else ["silent.test"] * 3
    packets = [query(name) for name in names]
    for packet in packets:
        client.send(packet)
    reply = client.recv(512)
    assert reply[:2] == packets[0 if asked == 2 else 2][:2]
    assert DNSRecord.parse(reply).header.rcode == RCODE.SERVFAIL


def test_kept_answers_are_there_while_all_wait_for_a_silent_upstream(
    client: socket.socket, ask: Callable[[str], DNSRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_forwarder, "TIMEOUT", 3 * TIMEOUT)
    assert ask("a.test").rr
    fresh = itertools.count()
    with socket.socket(type=socket.SOCK_DGRAM) as flooder:
        flooder.connect(client.getpeername())
        # Many ask for one name, and one for many names.
        for number in [0] * 500 + [*range(500)]:
            flooder.send(query(f"silent.{number}.test"))
            if number % 25 == 0:
                assert ask("a.test").rr
                # And so is one that is not kept yet, for which the upstream has to have read
                # all that came before: its buffer never overflows.
                assert ask(f"fresh.{next(fresh)}.test").header.rcode == RCODE.NXDOMAIN


def test_one_host_leaves_places_on_tcp(tmp_path: Path) -> None:
    with running_forwarder("uvloop", tmp_path) as forwarder, contextlib.ExitStack() as stack:
        # Ten that say nothing, and one whose end is seen at once.
        for _ in range(10):
            stack.enter_context(forwarder.on_tcp())
        refused = stack.enter_context(forwarder.on_tcp())
        assert refused.recv(1) == b""

"""A DNS upstream that does as the asked name says, and dns_forwarder.py in front of it."""

import collections
import contextlib
import socket
import socketserver
import threading
from collections.abc import Generator
from pathlib import Path

from dnslib import EDNS0, QTYPE, RCODE, RR, TXT, A, DNSRecord  # type: ignore[import-untyped]

from tests.deploy_support import Command
from tests.example_support import TIMEOUT, running
from tests.port_support import free_port

RECORDS = RR.fromZone("""
a.test.       300 IN A     192.0.2.1
a.test.       300 IN AAAA  2001:db8::1
b.test.       300 IN A     192.0.2.2
old.test.     300 IN A     192.0.2.2
second.test.    1 IN A     192.0.2.3
never.test.     0 IN A     192.0.2.4
slow.test.    300 IN A     192.0.2.5
lied.test.      0 IN A     192.0.2.6
forged.test.    0 IN A     192.0.2.7
lost.test.      0 IN A     192.0.2.8
""")
SOA = "test. 300 IN SOA ns.test. root.test. 1 2 3 4 "


class Upstream:
    """A server on UDP and TCP that counts, and does as the first label says."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: collections.Counter[str] = collections.Counter()
        self.sources: list[tuple[int, int]] = []
        self.gate = threading.Event()

    def reply(self, wire: bytes, port: int, limit: int) -> bytes:
        """What is to be sent for a query: at most `limit` bytes, or nothing."""
        query = DNSRecord.parse(wire)
        kind = str(query.q.qname).lower().split(".")[0]
        with self.lock:
            self.asked[kind] += 1
            is_first = self.asked[kind] == 1
            self.sources.append((query.header.id, port))
        if kind == "silent" or (kind == "lost" and is_first):
            return b""
        if kind == "slow":
            assert self.gate.wait(TIMEOUT)
        reply = query.reply(aa=0)
        if query.ar:
            reply.add_ar(EDNS0(udp_len=4096))
        if kind.startswith("txt"):
            # txt2000.test has so many bytes.
            size = int(kind.removeprefix("txt"))
            text = [b"x" * min(200, size - start) for start in range(0, size, 200)]
            reply.add_answer(RR(query.q.qname, QTYPE.TXT, ttl=300, rdata=TXT(text)))
        for record in RECORDS:
            if (record.rname, record.rtype) == (query.q.qname, query.q.qtype):
                reply.add_answer(record)
        if not reply.rr:
            reply.header.rcode = RCODE.NOERROR if kind == "a" else RCODE.NXDOMAIN
            if kind != "unsaid":
                reply.add_auth(*RR.fromZone(SOA + ("1" if kind == "briefly" else "60")))
        if len(reply.pack()) > limit:
            reply.header.tc, reply.rr = 1, []
        return bytes(reply.pack())


def lies(reply: bytes) -> list[bytes]:
    """The answer to another query, to another question, no answer at all, and half of one."""
    return [
        bytes([reply[0] ^ 1]) + reply[1:],
        reply.replace(b"\4li", b"\4la"),
        reply[:2] + b"\1" + reply[3:],
        reply[:20],
    ]


class Threads(socketserver.ThreadingMixIn):
    # A query that comes when a test ends is no fault of that test.
    daemon_threads = True
    upstream: Upstream


class UDPServer(Threads, socketserver.UDPServer):
    pass


class TCPServer(Threads, socketserver.TCPServer):
    pass


class OnUDP(socketserver.BaseRequestHandler):
    server: UDPServer

    def handle(self) -> None:
        wire, sock = self.request
        sizes = [record.rclass for record in DNSRecord.parse(wire).ar] or [512]
        reply = self.server.upstream.reply(wire, self.client_address[1], sizes[0])
        if not reply:
            return
        for lie in lies(reply) * (b"\4lied" in wire or 3 * (b"\4liar" in wire)):
            sock.sendto(lie, self.client_address)
        if b"\6forged" in wire:
            forged = DNSRecord.parse(reply)
            forged.rr[0].rdata = A("192.0.2.66")
            with socket.socket(type=socket.SOCK_DGRAM) as other:
                other.bind(("127.0.0.1", 0))
                other.sendto(forged.pack(), self.client_address)
        if b"\4liar" not in wire:
            sock.sendto(reply, self.client_address)


class OnTCP(socketserver.StreamRequestHandler):
    server: TCPServer

    def handle(self) -> None:
        wire = self.rfile.read(int.from_bytes(self.rfile.read(2), "big"))
        reply = self.server.upstream.reply(wire, self.client_address[1], 65535)
        self.wfile.write(framed(reply))


def framed(wire: bytes) -> bytes:
    """As it is on TCP (RFC 1035, 4.2.2)."""
    return len(wire).to_bytes(2, "big") + wire


@contextlib.contextmanager
def running_upstream() -> Generator[tuple[Upstream, int]]:
    """An upstream in threads, and its port."""
    upstream, port = Upstream(), free_port()
    with contextlib.ExitStack() as stack:
        servers: list[UDPServer | TCPServer] = [
            stack.enter_context(UDPServer(("127.0.0.1", port), OnUDP)),
            stack.enter_context(TCPServer(("127.0.0.1", port), OnTCP)),
        ]
        for server in servers:
            server.upstream = upstream
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield upstream, port


class Forwarder:
    """A running program, and its upstream."""

    def __init__(self, program: Command, upstream: Upstream) -> None:
        self.program = program
        self.upstream = upstream
        self.address = ("127.0.0.1", program.ports[0])

    def on_udp(self) -> socket.socket:
        client = socket.socket(type=socket.SOCK_DGRAM)
        client.settimeout(TIMEOUT)
        client.connect(self.address)
        return client

    def on_tcp(self) -> socket.socket:
        return socket.create_connection(self.address, TIMEOUT)

    def exchange(self, packet: bytes) -> bytes:
        with self.on_udp() as client:
            client.send(packet)
            return client.recv(65535)

    def ask(self, name: str, kind: str = "A", size: int | None = None) -> DNSRecord:
        """The reply to a query on UDP; with a size, to one with EDNS."""
        return DNSRecord.parse(self.exchange(query(name, kind, size)))


def query(name: str, kind: str = "A", size: int | None = None) -> bytes:
    made = DNSRecord.question(name, kind)
    if size is not None:
        made.add_ar(EDNS0(udp_len=size))
    return bytes(made.pack())


@contextlib.contextmanager
def running_forwarder(loop: str, folder: Path) -> Generator[Forwarder]:
    with running_upstream() as (upstream, port):
        arguments = [f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"]
        with running("dns_forwarder", *arguments, loop=loop, folder=folder) as program:
            yield Forwarder(program, upstream)

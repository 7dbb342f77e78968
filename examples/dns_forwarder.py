"""A DNS server on UDP and TCP that asks another one, and keeps its answers while they are valid.

Start it, and ask it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/dns_forwarder.py UPSTREAM_IP[:PORT] [HOST:PORT]        (127.0.0.1:5353)
    dig @127.0.0.1 -p 5353 example.com
"""

# pyright: basic
import argparse
import asyncio
import contextlib
import ipaddress
import logging
import secrets
import socket
import sys
import time
from urllib.parse import urlsplit

import dnslib  # type: ignore[import-untyped]
from dnslib import QTYPE, RCODE, DNSBuffer, DNSError, DNSHeader, DNSRecord

from aiosocketserver import (
    BaseRequestHandler,
    ServerOptions,
    StreamRequestHandler,
    TCPServer,
    UDPServer,
    run,
)

TIMEOUT, TRIES, WRONG_ANSWERS, MAX_KEPT, PIPELINED = 1.5, 3, 10, 1000, 10
MAX_ASKED, MAX_WAITING = 200, 50  # questions to the upstream, and clients that wait for each
# More handlers than can wait for the upstream: some are always there for kept answers.
ON_UDP: ServerOptions = {"max_concurrency": MAX_ASKED * MAX_WAITING + 200, "max_queue": 200}
ON_TCP: ServerOptions = {"max_connections": 50, "max_connections_per_host": 10, "idle_timeout": 10}
UDP_SIZE = 1232  # RFC 9715: larger ones come in fragments, of which some get lost
MAX_SIZE = 0x3FFF  # dnslib packs larger ones wrongly
RUBBISH = (DNSError, dnslib.DNSLabelError, ValueError, LookupError, RecursionError)  # by dnslib
Answer = tuple[bytes, float, float]  # the message, when it came, and until when it is valid
FAILED: Answer = bytes(DNSRecord(DNSHeader(qr=1, ra=1, rcode=RCODE.SERVFAIL)).pack()), 0, 0
# By query without its id. The answer that was used last is the last, as is the newest question.
answers: dict[bytes, Answer] = {}
asked: dict[bytes, tuple[asyncio.Task[Answer], asyncio.Semaphore]] = {}


class Forward(BaseRequestHandler):
    upstream: tuple[str, int]

    async def reply(self, packet: bytes, limit: int) -> bytes:
        """The reply to a client, of at most `limit` bytes; nothing unless it has sent a query."""
        if not 12 <= len(packet) <= UDP_SIZE or packet[2] & 0x80:
            return b""  # an answer to an answer could go to and fro for ever
        header = DNSHeader.parse(DNSBuffer(packet))
        try:
            # More than a question and EDNS's record would only keep the parser busy.
            if (header.opcode, header.q, header.a, header.auth, header.ar // 2) != (0, 1, 0, 0, 0):
                raise DNSError("not a query")
            query = DNSRecord.parse(packet)
            sizes = [min(each.rclass, UDP_SIZE) for each in query.ar if each.rtype == QTYPE.OPT]
            query.ar, limit = [dnslib.EDNS0(udp_len=UDP_SIZE) for _ in sizes], max([limit, *sizes])
            key = bytes(query.pack()[2:])
        except RUBBISH:
            header.qr, header.rcode = 1, RCODE.NOTIMP if header.opcode else RCODE.FORMERR
            return bytes(DNSRecord(header).pack())
        wire, came, valid = answers.pop(key, FAILED)
        if valid > time.monotonic():
            answers[key] = wire, came, valid
        else:
            wire, came, valid = await self.fresh(key)
        answer = DNSRecord.parse(wire if len(wire) <= limit else wire[:4] + bytes(8))
        answer.header.id, answer.questions, answer.ar = header.id, query.questions, query.ar
        for record in answer.rr + answer.auth:
            record.ttl -= int(time.monotonic() - came)
        if max(len(wire), len(answer.pack())) > limit:
            answer.header.tc, answer.rr, answer.auth = 1, [], []
        return bytes(answer.pack())

    async def fresh(self, key: bytes) -> Answer:
        """Wait for the upstream's answer; never so many that there is no room for the others."""
        if key not in asked:
            if len(asked) >= MAX_ASKED:  # the oldest has had the most time
                asked.pop(next(iter(asked)))[0].cancel()
            asked[key] = asyncio.create_task(self.ask(key)), asyncio.Semaphore(MAX_WAITING)
        task, places = asked[key]
        if places.locked():
            return FAILED
        async with places:
            await asyncio.wait([task])
        return FAILED if task.cancelled() else task.result()

    async def ask(self, key: bytes) -> Answer:
        answer = await self.upstream_says(key)
        del asked[key]  # when it is cancelled, it is gone, and may have been asked anew
        if answer[2] > time.monotonic():
            if len(answers) >= MAX_KEPT:
                del answers[next(iter(answers))]
            answers[key] = answer
        return answer

    async def upstream_says(self, key: bytes) -> Answer:
        for _ in range(TRIES):
            query = secrets.token_bytes(2) + key
            with contextlib.suppress(OSError, EOFError, *RUBBISH):
                async with asyncio.timeout(TIMEOUT):
                    answer = await self.over_udp(query)
                    if answer.header.tc:
                        answer = await self.over_tcp(query)
                answer.ar, records = [], answer.rr + answer.auth
                # That there is nothing is valid for as long as the SOA record says (RFC 2308).
                soa = [record.rdata.times[4] for record in records if record.rtype == QTYPE.SOA]
                ttl = min([record.ttl for record in records] + soa) if answer.rr or soa else 0
                if len(wire := bytes(answer.pack())) <= MAX_SIZE and DNSRecord.parse(wire):
                    return wire, time.monotonic(), time.monotonic() + ttl
        return FAILED

    async def over_udp(self, query: bytes) -> DNSRecord:
        family = socket.AF_INET6 if ":" in self.upstream[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(self.upstream)  # from a random port; and nobody else can answer
            sock.send(query)
            for _ in range(WRONG_ANSWERS):
                with contextlib.suppress(*RUBBISH):
                    return parse(await asyncio.get_running_loop().sock_recv(sock, 4096), query)
        raise OSError("nothing but wrong answers")

    async def over_tcp(self, query: bytes) -> DNSRecord:
        reader, writer = await asyncio.open_connection(*self.upstream)
        with contextlib.closing(writer):
            writer.write(len(query).to_bytes(2, "big") + query)
            size = int.from_bytes(await reader.readexactly(2), "big")
            return parse(await reader.readexactly(size), query)


def parse(wire: bytes, query: bytes) -> DNSRecord:
    answer, asked = DNSRecord.parse(wire), DNSRecord.parse(query)
    if wire[:2] != query[:2] or not answer.header.qr or answer.questions != asked.questions:
        raise DNSError("not the answer to this query")
    return answer


class OnUDP(Forward):
    async def handle(self) -> None:
        packet, sock = self.request
        if reply := await self.reply(packet, 512):
            await sock.sendto(reply, self.client_address)


class OnTCP(Forward, StreamRequestHandler):
    async def handle(self) -> None:
        slots = asyncio.Semaphore(PIPELINED)
        async with asyncio.TaskGroup() as group:
            while len(size := await self.rfile.read(2)) == 2:
                packet = await self.rfile.readexactly(int.from_bytes(size, "big"))
                await slots.acquire()
                group.create_task(self.answer(packet)).add_done_callback(lambda _: slots.release())

    async def answer(self, packet: bytes) -> None:
        if reply := await self.reply(packet, 65535):
            await self.wfile.write(len(reply).to_bytes(2, "big") + reply)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer DNS queries by another server's answers.")
    parser.add_argument("upstream", metavar="UPSTREAM_IP[:PORT]")
    parser.add_argument("bind", metavar="HOST:PORT", nargs="?", default="127.0.0.1:5353")
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        upstream, at = urlsplit(f"//{given.upstream}"), urlsplit(f"//{given.bind}")
        Forward.upstream = str(ipaddress.ip_address(upstream.hostname or "")), upstream.port or 53
        udp = UDPServer((str(at.hostname), at.port or 0), OnUDP, **ON_UDP)
        tcp = TCPServer(udp.server_address[:2], OnTCP, **ON_TCP)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    sys.exit(run([udp, tcp]))


if __name__ == "__main__":
    main()

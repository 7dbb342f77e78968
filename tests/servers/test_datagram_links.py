"""Which address answers across a link: several of each family, link-local, multicast, broadcast."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

SERVER = """
import asyncio, socket, socketserver, sys
import aiosocketserver

class Tell(aiosocketserver.DatagramRequestHandler):
    async def handle(self):
        self.wfile.write(repr(self.socket.server_address).encode())

class LegacyTell(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(repr(self.socket.server_address).encode())

async def main():
    name, host = sys.argv[1:]
    handler = Tell if name == "UDPServer" else LegacyTell
    async with getattr(aiosocketserver, name)((host, 5000), handler) as server:
        member = socket.inet_aton("239.7.7.7") + socket.inet_aton("10.77.0.1")
        server.socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        await server.start_serving()
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

CLIENT = """
import json, socket, sys

sources = {}
for asked in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in asked else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if family == socket.AF_INET:
            on_link = socket.inet_aton("10.77.0.9")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, on_link)
        sock.sendto(b"?", socket.getaddrinfo(asked, 5000, family, socket.SOCK_DGRAM)[0][4])
        told, source = sock.recvfrom(1000)
        assert asked.partition("%")[0] in told.decode(), (asked, told)
        sources[asked] = source[0]
print(json.dumps(sources))
"""

IPV4 = {"10.77.0.1": "10.77.0.1", "10.77.0.2": "10.77.0.2"}
IPV4_MANY = {"10.77.0.255": {"10.77.0.1", "10.77.0.2"}, "239.7.7.7": {"10.77.0.1", "10.77.0.2"}}
IPV6 = {
    "fe80::1%v1": "fe80::1",
    "fe80::2%v1": "fe80::2",
    "fd77::1": "fd77::1",
    "fd77::2": "fd77::2",
}
IPV6_MANY = {"ff02::1%v1": {"fe80::1", "fe80::2"}}


@pytest.fixture
def namespaces(
    require_program: Callable[[str], str], skip_for_want_of: Callable[[str], None]
) -> Iterator[tuple[list[str], list[str]]]:
    """Commands that run another one on either side of a link: the server's, the client's."""
    ip = require_program("ip")
    if os.geteuid() != 0:
        skip_for_want_of("only root makes network namespaces")
    ours, theirs = (f"aiosocketserver-{os.getpid()}-{side}" for side in "ab")

    def run(*arguments: str) -> None:
        done = subprocess.run([ip, *arguments], capture_output=True, text=True)
        if done.returncode:
            skip_for_want_of(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    with contextlib.ExitStack() as stack:
        for name in (ours, theirs):
            run("netns", "add", name)
            stack.callback(run, "netns", "del", name)
        run("-n", ours, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", theirs)
        for name, link in ((ours, "v0"), (theirs, "v1")):
            run("-n", name, "link", "set", link, "addrgenmode", "none")
            run("-n", name, "link", "set", link, "up")
        for name, link, hosts in ((ours, "v0", "12"), (theirs, "v1", "9")):
            for host in hosts:
                run("-n", name, "addr", "add", f"10.77.0.{host}/24", "brd", "+", "dev", link)
                for prefix in ("fe80::", "fd77::"):
                    address = f"{prefix}{host}/64"
                    run("-n", name, "addr", "add", address, "dev", link, "nodad")
        yield [ip, "netns", "exec", ours], [ip, "netns", "exec", theirs]


@pytest.mark.parametrize("kind", ["UDPServer", "ThreadingUDPServer", "ForkingUDPServer"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_is_the_one_that_was_asked_or_one_that_may_send(
    kind: str, host: str, namespaces: tuple[list[str], list[str]]
) -> None:
    on_ours, on_theirs = namespaces
    single = IPV4 if host == "0.0.0.0" else IPV4 | IPV6
    many = IPV4_MANY if host == "0.0.0.0" else IPV4_MANY | IPV6_MANY
    python = [sys.executable, "-c"]
    with subprocess.Popen(
        [*on_ours, *python, SERVER, kind, host], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            done = subprocess.run(
                [*on_theirs, *python, CLIENT, *single, *many],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            server.kill()
    sources = json.loads(done.stdout)
    assert {asked: sources[asked] for asked in single} == single
    for asked, possible in many.items():
        assert sources[asked] in possible

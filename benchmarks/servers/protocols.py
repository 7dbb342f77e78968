"""asyncio protocols, as the echo servers for TCP and UDP of asyncio's documentation."""

import asyncio
from typing import Any, cast

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, job_from_command_line

job = job_from_command_line()


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Lines(Echo):
    rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line + b"\n")


class Connects(Echo):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()


class Upload(Echo):
    count = 0

    def data_received(self, data: bytes) -> None:
        self.count += len(data)

    def eof_received(self) -> None:
        self.transport.write(b"%d\n" % self.count)


class Download(Echo):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.paused = False
        self.blocks = job.size // BLOCK_SIZE
        self.resume_writing()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.blocks and not self.paused:
            self.blocks -= 1
            self.transport.write(BLOCK)
        if not self.blocks:
            self.transport.close()


class Datagrams(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


PROTOCOLS: dict[str, type[asyncio.Protocol]] = {
    "echo": Echo,
    "lines": Lines,
    "connects": Connects,
    "upload": Upload,
    "download": Download,
}


async def main() -> None:
    loop = asyncio.get_running_loop()
    if job.role == "datagrams":
        transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        job.announce(transport.get_extra_info("sockname")[1])
        await loop.create_future()
    protocol = PROTOCOLS[job.task]
    if job.path:
        server = await loop.create_unix_server(protocol, job.path, backlog=BACKLOG)
        job.announce()
    else:
        server = await loop.create_server(
            protocol, "127.0.0.1", 0, backlog=BACKLOG, ssl=job.make_context()
        )
        job.announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


with asyncio.Runner(loop_factory=job.new_event_loop) as runner:
    runner.run(main())

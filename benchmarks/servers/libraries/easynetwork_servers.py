"""EasyNetwork's TCP and UDP servers, as its tutorials; its streams carry packets, here lines."""

import asyncio

from easynetwork.protocol import BufferedStreamProtocol, DatagramProtocol
from easynetwork.serializers import StringLineSerializer
from easynetwork.serializers.abc import AbstractPacketSerializer
from easynetwork.servers import AsyncTCPNetworkServer, AsyncUDPNetworkServer
from easynetwork.servers.handlers import AsyncDatagramRequestHandler, AsyncStreamRequestHandler

from benchmarks.servers.job import BACKLOG, job_from_command_line

job = job_from_command_line()

# The largest message of the benchmarks, with room.
LIMIT = 128 * 1024


class Bytes(AbstractPacketSerializer):
    def serialize(self, packet):
        return packet

    def deserialize(self, data):
        return data


class Lines(AsyncStreamRequestHandler):
    async def handle(self, client):
        await client.send_packet((yield))


class Connects(AsyncStreamRequestHandler):
    async def handle(self, client):
        await client.send_packet((yield))
        await client.aclose()


class Datagrams(AsyncDatagramRequestHandler):
    async def handle(self, client):
        await client.send_packet((yield))


HANDLERS = {"echo": Lines, "lines": Lines, "connects": Connects}


def make_server():
    if job.role == "datagrams":
        return AsyncUDPNetworkServer("127.0.0.1", 0, DatagramProtocol(Bytes()), Datagrams())
    serializer = StringLineSerializer("LF", limit=LIMIT)
    return AsyncTCPNetworkServer(
        "127.0.0.1",
        0,
        BufferedStreamProtocol(serializer),
        HANDLERS[job.role](),
        backlog=BACKLOG,
    )


async def main():
    async with make_server() as server:
        is_up = asyncio.Event()
        serving = asyncio.create_task(server.serve_forever(is_up_event=is_up))
        await is_up.wait()
        job.announce(server.get_addresses()[0].port)
        await serving


with asyncio.Runner(loop_factory=job.new_event_loop) as runner:
    runner.run(main())

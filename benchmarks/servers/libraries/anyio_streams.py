"""anyio streams, as the TCP and UDP servers of anyio's documentation."""

import anyio

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, job_from_command_line

job = job_from_command_line()


async def echo(client):
    async with client:
        async for data in client:
            await client.send(data)


async def connects(client):
    async with client:
        await client.send(await client.receive())


async def upload(client):
    async with client:
        count = 0
        async for data in client:
            count += len(data)
        await client.send(b"%d\n" % count)


async def download(client):
    async with client:
        for _ in range(job.size // BLOCK_SIZE):
            await client.send(BLOCK)


async def serve_datagrams():
    async with await anyio.create_udp_socket(local_host="127.0.0.1") as udp:
        job.announce(udp.extra(anyio.abc.SocketAttribute.local_port))
        async for packet, (host, port) in udp:
            await udp.sendto(packet, host, port)


HANDLERS = {"echo": echo, "connects": connects, "upload": upload, "download": download}


async def main():
    if job.role == "datagrams":
        await serve_datagrams()
    listener = await anyio.create_tcp_listener(
        local_host="127.0.0.1", local_port=0, backlog=BACKLOG
    )
    job.announce(listener.extra(anyio.abc.SocketAttribute.local_port))
    await listener.serve(HANDLERS[job.role])


anyio.run(main, backend_options={"use_uvloop": job.loop == "uvloop"})

"""asyncio streams, as the example "TCP echo server using streams" of asyncio's documentation."""

import asyncio

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, FILE_SIZE, job_from_command_line

job = job_from_command_line()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BLOCK_SIZE):
        writer.write(data)
        await writer.drain()
    writer.close()


async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def connects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read(BLOCK_SIZE))
    await writer.drain()
    writer.close()


async def upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    count = 0
    while data := await reader.read(BLOCK_SIZE):
        count += len(data)
    writer.write(b"%d\n" % count)
    await writer.drain()
    writer.close()


async def download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for _ in range(job.size // BLOCK_SIZE):
        writer.write(BLOCK)
        await writer.drain()
    writer.close()


async def sendfile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with job.make_file() as file:
        for _ in range(job.size // FILE_SIZE):
            await asyncio.get_running_loop().sendfile(writer.transport, file)
    writer.close()


CALLBACKS = {
    "echo": echo,
    "lines": lines,
    "connects": connects,
    "upload": upload,
    "download": download,
    "sendfile": sendfile,
}


async def main() -> None:
    callback = CALLBACKS[job.task]
    if job.path:
        server = await asyncio.start_unix_server(callback, job.path, backlog=BACKLOG)
        job.announce()
    else:
        server = await asyncio.start_server(
            callback, "127.0.0.1", 0, backlog=BACKLOG, ssl=job.make_context()
        )
        job.announce(server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


with asyncio.Runner(loop_factory=job.new_event_loop) as runner:
    runner.run(main())

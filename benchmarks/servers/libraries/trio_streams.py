"""trio streams, as the echo server of trio's tutorial."""

from functools import partial

import trio

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, job_from_command_line

job = job_from_command_line()


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def connects(stream):
    async with stream:
        await stream.send_all(await stream.receive_some())


async def upload(stream):
    count = 0
    async for data in stream:
        count += len(data)
    await stream.send_all(b"%d\n" % count)


async def download(stream):
    for _ in range(job.size // BLOCK_SIZE):
        await stream.send_all(BLOCK)


async def serve_datagrams():
    sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))
    job.announce(sock.getsockname()[1])
    while True:
        data, address = await sock.recvfrom(BLOCK_SIZE)
        await sock.sendto(data, address)


HANDLERS = {"echo": echo, "connects": connects, "upload": upload, "download": download}


async def main():
    if job.role == "datagrams":
        await serve_datagrams()
    handler, context = HANDLERS[job.task], job.make_context()
    where = {"host": "127.0.0.1", "backlog": BACKLOG}
    if context is None:
        serve = partial(trio.serve_tcp, handler, 0, **where)
    else:
        # The load, as HTTP clients do, does not wait for the answer to its close_notify.
        serve = partial(
            trio.serve_ssl_over_tcp, handler, 0, context, https_compatible=True, **where
        )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve)
        listener = getattr(listeners[0], "transport_listener", listeners[0])
        job.announce(listener.socket.getsockname()[1])


trio.run(main)

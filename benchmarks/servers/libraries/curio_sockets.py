"""curio's sockets, as the echo server of its documentation."""

import curio
from curio import socket

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, job_from_command_line

job = job_from_command_line()


async def echo(client, address):
    while data := await client.recv(BLOCK_SIZE):
        await client.sendall(data)


async def lines(client, address):
    async for line in client.as_stream():
        await client.sendall(line)


async def connects(client, address):
    await client.sendall(await client.recv(BLOCK_SIZE))


async def upload(client, address):
    count = 0
    while data := await client.recv(BLOCK_SIZE):
        count += len(data)
    await client.sendall(b"%d\n" % count)


async def download(client, address):
    for _ in range(job.size // BLOCK_SIZE):
        await client.sendall(BLOCK)


HANDLERS = {
    "echo": echo,
    "lines": lines,
    "connects": connects,
    "upload": upload,
    "download": download,
}


async def serve_datagrams():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    job.announce(sock.getsockname()[1])
    while True:
        data, address = await sock.recvfrom(BLOCK_SIZE)
        await sock.sendto(data, address)


async def main():
    if job.role == "datagrams":
        await serve_datagrams()
    sock = curio.tcp_server_socket("127.0.0.1", 0, backlog=BACKLOG)
    job.announce(sock.getsockname()[1])
    await curio.network.run_server(sock, HANDLERS[job.role])


curio.run(main)

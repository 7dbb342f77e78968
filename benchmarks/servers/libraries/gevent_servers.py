"""gevent's StreamServer and DatagramServer, as its examples echoserver.py and udp_server.py."""

from gevent.server import DatagramServer, StreamServer

from benchmarks.servers.job import BACKLOG, BLOCK, BLOCK_SIZE, job_from_command_line

job = job_from_command_line()


def echo(sock, address):
    while data := sock.recv(BLOCK_SIZE):
        sock.sendall(data)


def lines(sock, address):
    with sock.makefile(mode="rb") as rfile:
        for line in rfile:
            sock.sendall(line)


def connects(sock, address):
    sock.sendall(sock.recv(BLOCK_SIZE))


def upload(sock, address):
    count = 0
    while data := sock.recv(BLOCK_SIZE):
        count += len(data)
    sock.sendall(b"%d\n" % count)


def download(sock, address):
    for _ in range(job.size // BLOCK_SIZE):
        sock.sendall(BLOCK)


class EchoServer(DatagramServer):
    def handle(self, data, address):
        self.socket.sendto(data, address)


HANDLERS = {
    "echo": echo,
    "lines": lines,
    "connects": connects,
    "upload": upload,
    "download": download,
}

if job.role == "datagrams":
    server = EchoServer("127.0.0.1:0")
else:
    server = StreamServer(("127.0.0.1", 0), HANDLERS[job.role], backlog=BACKLOG)
server.start()
job.announce(server.server_port)
server.serve_forever()

"""Shows what a server says of its own accord."""

import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])
visit = socket.socket()
visit.connect((host, port))
print(visit.recv(1024))
visit.close()

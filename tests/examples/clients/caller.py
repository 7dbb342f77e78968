"""Takes up the telephone: sends what is typed, and shows what one `recv` brings each time."""

import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])
line = socket.socket()
line.connect((host, port))
while True:
    dialled = input("dial> ").strip()
    line.sendall(dialled.encode())
    print(line.recv(1024).decode())

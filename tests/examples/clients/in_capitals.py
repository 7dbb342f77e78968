"""Sends each line that is typed, but for empty ones, and shows what comes back."""

import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])
connection = socket.socket()
connection.connect((host, port))
while True:
    typed = input("line: ").strip()
    if not typed:
        continue
    connection.send(typed.encode())
    print(connection.recv(1024).decode())

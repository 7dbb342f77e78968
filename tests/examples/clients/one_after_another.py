"""Three connections, one after the other, each with a message and its answer."""

import socket
import sys


def visit(host: str, port: int, message: str) -> None:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.connect((host, port))
    try:
        connection.sendall(message.encode())
        print(f"heard: {connection.recv(1024).decode()}")
    finally:
        connection.close()


for number in "123":
    visit(sys.argv[1], int(sys.argv[2]), f"visit {number}")

"""Two connections that are open at the same time, each with a question and its answer."""

import os
import socket
import sys

QUESTION = "who is there?"


class Visitor:
    def __init__(self, host: str, port: int) -> None:
        self.connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.connection.connect((host, port))

    def ask(self) -> None:
        print(f"{os.getpid()} asks: {QUESTION}")
        self.connection.send(QUESTION.encode())
        print(f"{os.getpid()} hears: {self.connection.recv(1024).decode()}")

    def leave(self) -> None:
        self.connection.close()


visitors = [Visitor(sys.argv[1], int(sys.argv[2])) for _ in range(2)]
for visitor in visitors:
    visitor.ask()
for visitor in visitors:
    visitor.leave()

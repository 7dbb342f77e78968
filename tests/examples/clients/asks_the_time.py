"""Sends each line that is typed and shows the answer, until an empty one."""

import socket
import sys

host, port = sys.argv[1], int(sys.argv[2])
clock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
clock.connect((host, port))
while True:
    typed = input("ask> ")
    if not typed:
        break
    clock.send(typed.encode())
    answer = clock.recv(1024)
    if not answer:
        break
    print(answer.decode())
clock.close()

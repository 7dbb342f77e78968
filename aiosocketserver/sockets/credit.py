"""What one connection may do in one turn of the loop, before the others get theirs.

Bytes moved, and a price for each call, so that a client that blasts a handler doing recv(64) is
no better off than one that sends large blocks (decision 0003: a 10 ms timer was 4 s late).
"""

TURN_CREDIT = 256 * 1024
CALL_COST = 2 * 1024
LINE_COST = 512

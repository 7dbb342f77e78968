"""A pytest plugin for fakeredis' tests, which compare its server with a real one.

The real one is fakeredis' own as well, on the port that FOREIGN_PORT says: what is tried is
who serves it, not what it answers. It does not know INFO, by which the tests ask its version.
"""

import os
import threading

import redis
from fakeredis._clients._tcp_server import TcpFakeServer

from aiosocketserver.requests.threads import end_all_idle


def pytest_configure() -> None:
    redis.Redis.info = lambda *_: {"redis_version": "8.0.0"}
    server = TcpFakeServer(("127.0.0.1", int(os.environ["FOREIGN_PORT"])))
    threading.Thread(target=server.serve_forever, daemon=True).start()


def pytest_runtest_setup() -> None:
    """Begin without idle threads, which compat keeps for half a second: a test counts threads."""
    for thread in end_all_idle():
        thread.join()

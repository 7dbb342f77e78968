"""A server that sends each line back: the shape of every server made with aiosocketserver.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/echo.py [BIND]        (tcp://127.0.0.1:9999)
    nc 127.0.0.1 9999
"""

import argparse
import logging
import sys

from aiosocketserver import StartError, StreamRequestHandler, run


class Echo(StreamRequestHandler):
    async def handle(self) -> None:
        async for line in self.rfile:
            await self.wfile.write(line)


def main() -> None:
    parser = argparse.ArgumentParser(description="Send each line back.")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:9999")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        sys.exit(run(Echo, arguments.bind))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

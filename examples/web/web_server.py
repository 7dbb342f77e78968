"""A web server: a page that shows the server's own numbers, files, and a greeting.

It needs h11: pip install '.[examples]'. Start it, and open it in a browser or talk to it from
another terminal; Ctrl-C or SIGTERM stops it:

    python examples/web/web_server.py [--folder PATH] [BIND]        (tcp://127.0.0.1:8080)

    http://127.0.0.1:8080/                      the page, or the index.html of PATH
    curl http://127.0.0.1:8080/hello
    curl -d Ada http://127.0.0.1:8080/hello     a greeting for Ada
    curl -N http://127.0.0.1:8080/events        the numbers, each second
"""

import argparse
import asyncio
import functools
import json
import logging
import re
import sys
from http import HTTPMethod
from pathlib import Path
from typing import Any

import h11

from aiosocketserver import BaseServer, StartError, Statistics, TimedOut, run
from http11 import HTTPRequestHandler, Refused
from static_files import open_file

# Of `server.statistics`, which counts connections.
COUNTERS = ("accepted", "active", "peak", "bytes_received", "bytes_sent")


class Site:
    """What all connections share: the folder, and the number of requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests = 0
        self._second = 0
        self._event = b""

    def event(self, statistics: Statistics, second: int) -> bytes:
        """The numbers as an event of server-sent events, made once a second for all pages."""
        if second != self._second:
            self._second = second
            numbers = {name: getattr(statistics, name) for name in COUNTERS}
            numbers |= {"requests": self.requests, "time": asyncio.get_running_loop().time()}
            self._event = f"retry: 1000\ndata: {json.dumps(numbers)}\n\n".encode()
        return self._event


class Web(HTTPRequestHandler):
    def __init__(self, request: Any, client_address: Any, server: BaseServer, site: Site) -> None:
        super().__init__(request, client_address, server)
        self.site = site

    async def answer(self, request: h11.Request) -> None:
        self.site.requests += 1
        # A client may send the whole URL, as it does to a proxy (RFC 9112, 3.2.2).
        target = re.sub("(?i)^https?://[^/?]*", "", request.target.decode())
        path = target.partition("?")[0] or "/"
        match request.method.decode(), path:
            case "GET" | "HEAD", "/hello":
                await self.respond(200, "Hello from aiosocketserver\n")
            case "POST", "/hello":
                name = (await self.receive_body(request)).decode(errors="replace")
                await self.respond(200, f"Hello {name}, from aiosocketserver\n")
            case "GET" | "HEAD", "/events":
                await self.tell_numbers()
            case "GET" | "HEAD", _:
                await self.serve_file(path, dict(request.headers))
            case method, _ if method in HTTPMethod.__members__:
                allowed = "GET, HEAD, POST" if path == "/hello" else "GET, HEAD"
                raise Refused(405, f"what {path} has are {allowed}", Allow=allowed)
            case method, _:
                raise Refused(501, f"nothing here knows {method}")

    async def serve_file(self, path: str, headers: dict[bytes, bytes]) -> None:
        # On the loop: with a disk of this machine it takes less than the way to a thread and
        # back (46 µs, 63 µs). A network's, which may hang, is for `server.run_in_thread`.
        found = open_file(self.site.folder, path)
        if found is None:
            raise Refused(404, f"there is no {path}")
        with found.file:
            if found.is_known(headers):
                await self.begin(304, found.validators())
            elif await self.begin(200, found.headers()):
                await self.send_file(found.file, found.size)
            await self.send(h11.EndOfMessage())

    async def tell_numbers(self) -> None:
        """Server-sent events, until the page is closed or the server shuts down."""
        about = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        goes_on = await self.begin(200, about | {"Connection": "close"})
        # The server's end looks like the client's then: read1() returns.
        self.request.end_when_draining()
        second = 0
        while goes_on:
            # The same moment for all pages, so that one event does for all.
            second = max(second + 1, int(asyncio.get_running_loop().time()))
            await self.send(h11.Data(data=self.site.event(self.server.statistics, second)))
            try:
                async with asyncio.timeout_at(second + 1):
                    await self.rfile.read1()
                goes_on = False
            except TimedOut:
                raise
            except TimeoutError:
                pass  # the next second has come
        await self.send(h11.EndOfMessage())


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a page with live numbers, and files.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent / "page")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:8080")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"--folder: {arguments.folder} is not a folder")
    logging.basicConfig(level="INFO", format="%(message)s")
    web = functools.partial(Web, site=Site(arguments.folder.resolve()))
    try:
        exit_code = run(
            web,
            arguments.bind,
            # http11.py tells what these five are for HTTP.
            max_line_size=16 * 1024,
            max_block_size=64 * 1024,
            read_timeout=10,
            idle_timeout=60,
            write_timeout=30,
            # A browser takes six; a host may be many people behind one router.
            max_connections=1000,
            max_connections_per_host=100,
            shutdown_timeout=5,  # for answers that are under way
        )
    except StartError as error:
        sys.exit(str(error))
    sys.exit(exit_code)


if __name__ == "__main__":
    main()

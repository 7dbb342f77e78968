"""HTTP/1.1 on a connection: h11 parses requests and frames answers (RFC 9110 and 9112).

The head of a request is read as one line, which ends with an empty one, and its body as one
block. So the limits of HTTP are options of the server:

    max_line_size    bytes of a head; for a longer one the answer is 431
    max_block_size   bytes of a body: 413
    read_timeout     seconds for either, from its first byte to its last: 408
    idle_timeout     seconds of silence, as between two requests, until the connection ends
    write_timeout    seconds that a client may take nothing of an answer
"""

import asyncio
import logging
from email.utils import formatdate
from http import HTTPStatus
from typing import BinaryIO, cast

import h11

from aiosocketserver import LimitExceeded, StreamRequestHandler, TimedOut

logger = logging.getLogger("web")

AnswerPart = h11.InformationalResponse | h11.Response | h11.Data | h11.EndOfMessage

# In every answer: a page may load what this server has and nothing else, no script within the
# page itself is run, and a file is what its Content-Type says, whatever it looks like.
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Refused(Exception):
    """A request is answered with an error: its status, the reason, and more headers."""

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


class HTTPRequestHandler(StreamRequestHandler):
    """Answers the requests of a connection, one after another. Define `answer`."""

    async def answer(self, request: h11.Request) -> None:
        """Answer one request, or raise Refused before anything of the answer is sent."""
        raise NotImplementedError

    async def handle(self) -> None:
        http = self.http = h11.Connection(h11.SERVER)
        while True:
            self.asked: h11.Request | None = None
            try:
                request = await self.receive_request()
                if request is None:
                    return
                await self.answer(request)
            except Refused as refused:
                await self.respond(refused.status, f"{refused}\n", **refused.headers)
            except h11.RemoteProtocolError as error:
                await self.respond(error.error_status_hint, f"{error}\n")
            except LimitExceeded as error:
                await self.respond(431, f"{error}\n")
            except TimedOut as error:
                if error.option != "read_timeout":
                    raise
                await self.respond(408, f"{error}\n")
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def receive_request(self) -> h11.Request | None:
        """The next request, without its body; None when the client has closed."""
        # A shutdown of the server ends a connection between two requests, and not within one.
        self.request.end_when_draining()
        try:
            head = await self.rfile.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Refused(400, "the connection ends within the head of a request") from None
            return None
        self.request.end_when_draining(False)
        # h11 takes LF alone for the end of a line, too: where a proxy in front sees one request,
        # it may see two.
        if head.count(b"\n") != head.count(b"\r\n"):
            raise Refused(400, "a line of a head ends with CR LF")
        self.http.receive_data(head)
        request = self.http.next_event()
        assert isinstance(request, h11.Request)
        self.asked = request
        if {b"content-length", b"transfer-encoding"} <= dict(request.headers).keys():
            raise Refused(400, "either Content-Length or Transfer-Encoding, not both")
        # The end of the request, unless a body comes before it.
        self.http.next_event()
        return request

    async def receive_body(self, request: h11.Request) -> bytes:
        """The body of a request. A client that waits to be asked for it (Expect) is asked."""
        if self.http.their_state is not h11.SEND_BODY:
            return b""
        length = int(dict(request.headers).get(b"content-length", 0))
        if not length:
            raise Refused(411, "a body needs a Content-Length")
        if length > self.rfile.max_block_size:
            raise Refused(413, f"a body has at most {self.rfile.max_block_size} bytes")
        if self.http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        body = await self.rfile.readexactly(length)
        self.http.receive_data(body)
        while not isinstance(self.http.next_event(), h11.EndOfMessage):
            pass
        return body

    async def begin(self, status: int, headers: dict[str, str]) -> bool:
        """Send the head of an answer; whether it has a body."""
        head = {"Date": formatdate(usegmt=True), **SECURITY, **headers}
        # What is left of a request would be taken for the next one.
        left = self.http.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        if left or self.server.draining:
            head["Connection"] = "close"
        reason = HTTPStatus(status).phrase
        await self.send(h11.Response(status_code=status, headers=[*head.items()], reason=reason))
        asked = b"- -" if self.asked is None else self.asked.method + b" " + self.asked.target
        logger.info("%s %s %d", self.client_address, asked.decode(), status)
        return not asked.startswith(b"HEAD ") and status != 304

    async def send(self, event: AnswerPart) -> None:
        """Send a part of an answer."""
        await self.wfile.write(self.http.send(event))

    async def send_file(self, file: BinaryIO, size: int) -> None:
        """Send a file as the body. The kernel does it: sendfile(2)."""
        # h11 counts the bytes that it does not see (its documentation, "Re: sendfile()").
        self.http.send_with_data_passthrough(h11.Data(data=cast("bytes", range(size))))
        if size and await self.request.sendfile(file, 0, size) < size:
            # The end of the connection tells the client that something is missing.
            raise EOFError("a file became shorter while it was sent")

    async def respond(self, status: int, text: str, **headers: str) -> None:
        """Send a text as the whole answer."""
        body = text.encode()
        about = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body))}
        if await self.begin(status, about | headers):
            await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())

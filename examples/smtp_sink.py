"""An SMTP server that keeps all mail and sends none: see the messages that your program sends.

A message becomes a file of a Maildir, which mutt and Python's `mailbox` read, with its
envelope in Return-Path and Delivered-To. With a certificate the server offers STARTTLS.

Start it, and talk to it from another terminal; Ctrl-C or SIGTERM stops it:

    python examples/smtp_sink.py --maildir PATH [--certfile FILE --keyfile FILE] [BIND]
    swaks --server 127.0.0.1:1025 --to you@example.com      (BIND is tcp://127.0.0.1:1025)
"""

import argparse
import functools
import logging
import os
import re
import sys
from asyncio import CancelledError
from mailbox import Maildir
from ssl import SSLContext
from typing import Any

import aiosocketserver
from aiosocketserver import CertificateFiles, LimitExceeded, StartError

LIMITS: aiosocketserver.ServerOptions = {
    "idle_timeout": 300,  # RFC 5321, 4.5.3.2.7
    "request_timeout": 3600,
    "max_line_size": 1001,  # 4.5.3.1.6: a text line with its end, and a doubled dot
    "max_connections": 100,  # each may have a message in memory
    "max_threads": 1,  # a Maildir is not made for several
}
MAX_MESSAGE, MAX_RECIPIENTS, MAX_COMMANDS, MAX_ERRORS = 10 * 1024 * 1024, 1000, 10_000, 20
EXTENSIONS = f"250-localhost\r\n250-8BITMIME\r\n250-PIPELINING\r\n250-SIZE {MAX_MESSAGE}\r\n"
# Printable ASCII only, so that no address ends the header that it is put into.
ADDRESS = r'(?:"(?:[ !#-\[\]-~]|\\[ -~])*"|[!#-;=?-~])'
COMMAND = re.compile(
    rf"""(?: (?:EHLO|HELO)[ ](?P<client>[!-~]+) | DATA | RSET | STARTTLS | QUIT
        | MAIL[ ]FROM:[ ]?<(?P<sender>{ADDRESS}*)>
          (?:[ ]SIZE=(?P<size>[0-9]{{1,20}}) | [ ]BODY=(?:7BIT|8BITMIME))*
        | RCPT[ ]TO:[ ]?<(?P<recipient>{ADDRESS}+)> )[ ]*\r\n
        | (?:NOOP|VRFY)(?:[ ][ -~]*)?\r\n""",
    re.IGNORECASE | re.VERBOSE,
)
logger = logging.getLogger("smtp_sink")


class Session(aiosocketserver.StreamRequestHandler):
    def __init__(self, *request: Any, maildir: Maildir, new: int, tls: SSLContext | None) -> None:
        super().__init__(*request)
        self.maildir, self.new, self.tls = maildir, new, tls
        self.commands = self.errors = 0
        self.begin()

    def begin(self, client: str = "") -> None:
        self.client, self.envelope, self.recipients = client, "", 0

    async def handle(self) -> None:
        reply = "220 localhost ESMTP, keeps all mail"
        try:
            while not reply.startswith(("221", "421", "554")):
                await self.say(reply)
                # At shutdown this wait ends, and no other one, as if the client had left.
                self.request.end_when_draining()
                line = await self.rfile.readline()
                self.request.end_when_draining(False)
                reply = await self.answer(line.decode("latin-1"))
            await self.say(reply)
        except (Exception, CancelledError) as error:  # a long line, a time-out, a full disk
            await self.say(f"{500 if isinstance(error, LimitExceeded) else 421} {error}")
            raise

    async def say(self, reply: str) -> None:
        self.errors += reply.startswith("5")
        await self.wfile.write(f"{reply}\r\n".encode() if reply else b"")

    async def answer(self, line: str) -> str:
        """Obey a command; the reply, if there is one."""
        self.commands += 1
        if not line or self.commands > MAX_COMMANDS or self.errors > MAX_ERRORS:
            return "421 the connection ends"
        command = COMMAND.fullmatch(line)
        if command is None:
            return "500 unknown command or parameter, or no CRLF"
        match line.split()[0].upper():
            case "EHLO" | "HELO" | "RSET" as verb:
                self.begin(command["client"] or self.client)
                if verb == "EHLO":
                    return EXTENSIONS + ("250 VRFY" if self.tls is None else "250 STARTTLS")
            case "MAIL" if int(command["size"] or 0) > MAX_MESSAGE:
                return "552 too large"
            case "MAIL" if self.client and not self.envelope:
                self.envelope = f"Return-Path: <{command['sender']}>\n"
            case "RCPT" if self.recipients == MAX_RECIPIENTS:
                return "452 too many recipients"
            case "RCPT" if self.envelope:
                self.envelope += f"Delivered-To: {command['recipient']}\n"
                self.recipients += 1
            case "DATA" if self.recipients:
                return await self.data()
            case "STARTTLS" if self.tls is not None:
                await self.say("220 begin")
                await self.request.start_tls(self.tls)  # refuses commands that came before it
                self.tls = None
                self.begin()
                return ""
            case verb:
                known = {"NOOP": "250 ok", "VRFY": "252 all mail is taken", "QUIT": "221 bye"}
                return known.get(verb, "503 not now")
        return "250 ok"

    async def data(self) -> str:
        envelope, content = self.envelope.encode(), bytearray()
        self.begin(self.client)
        await self.say("354 end with a dot on a line of its own")
        while (line := await self.rfile.readuntil(b"\r\n")) != b".\r\n":
            text = line[:-2].removeprefix(b".")
            if b"\r" in text or b"\n" in text:
                return "554 a CR or LF by itself"  # it can hide a second message (SMTP smuggling)
            content += (text + b"\n")[: MAX_MESSAGE + 1 - len(content)]
        if len(content) > MAX_MESSAGE:
            return "552 too large"
        await self.server.run_in_thread(self.maildir.add, envelope + content)
        # add() has synced the file, but not its name, which is in the folder.
        await self.server.run_in_thread(os.fsync, self.new)
        logger.info("kept %d bytes from %s", len(content), self.client_address)
        return "250 kept"


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep the mail that programs send.")
    parser.add_argument("--maildir", metavar="PATH", required=True)
    parser.add_argument("--certfile", metavar="FILE", help="offer STARTTLS with it")
    parser.add_argument("--keyfile", metavar="FILE", help="unless it is in the certfile")
    parser.add_argument("bind", nargs="?", default="tcp://127.0.0.1:1025")
    given = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        tls = CertificateFiles(given.certfile, given.keyfile)() if given.certfile else None
        maildir = Maildir(given.maildir)
        new = os.open(os.path.join(given.maildir, "new"), os.O_RDONLY)
        session = functools.partial(Session, maildir=maildir, new=new, tls=tls)
        sys.exit(aiosocketserver.run(session, given.bind, **LIMITS))
    except (OSError, StartError) as error:
        sys.exit("; ".join([str(error), *getattr(error, "__notes__", [])]))


if __name__ == "__main__":
    main()

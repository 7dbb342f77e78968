"""Messages between the parent of a service and one of its workers: JSON, a line each."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

from ..requests.children import live_servers


class Channel:
    """One end. `on_message` gets each message, `on_end` is called when the other end is gone.

    Belongs to the running loop.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[dict[str, Any]], object],
        on_end: Callable[[], object],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._received = b""
        self._unsent = b""
        # Whether the loop is to tell when there is room for the rest of a message.
        self._waits = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._receive_all)
        live_servers.add(self)

    def send(self, message: dict[str, Any]) -> None:
        """Send it, unless the other end has gone, or has not taken the one before."""
        if not self._unsent:
            self._unsent = json.dumps(message).encode() + b"\n"
            self._flush()

    def close(self) -> None:
        """Send and receive no more."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._waits = False
            self._sock.close()

    def drain(self) -> None:
        """Take what has come, and then close: the other end has ended."""
        self._receive_all()
        self.close()

    def _close_in_child(self, kept: object) -> None:
        """In a forked child: let go of the descriptor and leave the loop alone."""
        del kept
        self._sock.close()

    def _flush(self) -> None:
        try:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            # The end is seen where it is read.
            self._unsent = b""
        if self._unsent and not self._waits:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            self._waits = True
        elif self._waits and not self._unsent:
            self._loop.remove_writer(self._sock.fileno())
            self._waits = False

    def _receive_all(self) -> None:
        # To the end: what came with a reset uvloop tells of once (see `StreamCore._watch_input`).
        while self._sock.fileno() >= 0 and self._receive():
            pass

    def _receive(self) -> bool:
        """Take what has come; whether there may be more."""
        try:
            data = self._sock.recv(64 * 1024)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_end()
            return False
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._on_message(json.loads(line))
        return True

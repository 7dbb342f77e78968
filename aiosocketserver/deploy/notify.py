"""What systemd is told of a service: see sd_notify(3)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque

logger = logging.getLogger("aiosocketserver.deploy")

# Seconds until a message is sent again that the service manager has no room for now.
_AGAIN = 0.1


class Notifier:
    """Tells the service manager, if there is one, what the service does.

    Made in the process that the manager has started; takes NOTIFY_SOCKET and
    WATCHDOG_USEC out of the environment, so that no child speaks for us. What is told
    arrives in order, and none of it is left out while the manager has no room.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "0")
        asked = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog = int(microseconds) / 1e6 if asked and microseconds.isdigit() else 0.0
        self._timer: asyncio.TimerHandle | None = None
        # What waits for room.
        self._unsent: deque[str] = deque()
        self._again: asyncio.TimerHandle | None = None

    def ready(self, status: str) -> None:
        """The service is up, or is up again after `reloading`. Begins to feed the watchdog."""
        self._tell(f"READY=1\nSTATUS={status}")
        if self._watchdog and self._timer is None:
            self._feed()

    def reloading(self) -> None:
        """It is being reloaded."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, status: str) -> None:
        """It goes on, and this has changed."""
        self._tell(f"STATUS={status}")

    def stopping(self) -> None:
        """It drains."""
        self._tell("STOPPING=1")
        self._tell("STATUS=stopping")

    def close(self) -> None:
        """Feed the watchdog no longer."""
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()

    def _feed(self) -> None:
        # Nothing new for a manager that has not taken what was told before.
        if not self._unsent:
            self._tell("WATCHDOG=1")
        # "Half of the time" is what sd_watchdog_enabled(3) recommends.
        self._timer = asyncio.get_running_loop().call_later(self._watchdog / 2, self._feed)

    def _tell(self, state: str) -> None:
        if self._address:
            self._unsent.append(state)
            if self._again is None:
                self._send()

    def _send(self) -> None:
        self._again = None
        name = self._address
        address = "\0" + name[1:] if name.startswith("@") else name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                while self._unsent:
                    sock.sendto(self._unsent[0].encode(), address)
                    self._unsent.popleft()
        except BlockingIOError:
            self._again = asyncio.get_running_loop().call_later(_AGAIN, self._send)
        except OSError as error:
            self._unsent.clear()
            logger.warning("the service manager at %s was not told: %s", name, error)

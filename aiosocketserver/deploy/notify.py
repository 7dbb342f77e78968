"""What systemd is told of a service: see sd_notify(3)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time

logger = logging.getLogger("aiosocketserver.deploy")


class Notifier:
    """Tells the service manager, if there is one, what the service does.

    Made in the process that the manager has started; takes NOTIFY_SOCKET and
    WATCHDOG_USEC out of the environment, so that no child speaks for us.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        microseconds = os.environ.pop("WATCHDOG_USEC", "0")
        asked = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog = int(microseconds) / 1e6 if asked and microseconds.isdigit() else 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ready(self, status: str) -> None:
        """The service is up, or is up again after `reloading`. Begins to feed the watchdog."""
        self._send(f"READY=1\nSTATUS={status}")
        if self._watchdog and self._timer is None:
            self._feed()

    def reloading(self) -> None:
        """It is being reloaded."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """It drains."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Feed the watchdog no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _feed(self) -> None:
        self._send("WATCHDOG=1")
        # "Half of the time" is what sd_watchdog_enabled(3) recommends.
        self._timer = asyncio.get_running_loop().call_later(self._watchdog / 2, self._feed)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        name = self._address
        address = "\0" + name[1:] if name.startswith("@") else name
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("the service manager at %s was not told: %s", name, error)

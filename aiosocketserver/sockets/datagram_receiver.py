"""Datagrams as the kernel has them: the bytes, and what it tells beside."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Sized
from typing import Any

from ..logs.limits import LogLimit
from .packet_info import ControlMessages, Destination, ask_for_destinations, destination_of
from .server_timeout import set_while_read

logger = logging.getLogger("aiosocketserver")

# As a number: see `datagram_socket`.
_READ = int(socket.MSG_DONTWAIT)

# What is read at once, and cut to `max_packet_size` here: no UDP datagram is longer, so
# that its size is known. It costs what reading 8 KiB does, and a fifth less than reading
# into a buffer with MSG_TRUNC (docs/decisions/0005-datagrams.md).
_LARGEST = 65536

# Linux then tells how long a datagram is of which only a part fits (recv(2)).
_WHOLE_SIZE = int(socket.MSG_TRUNC) if sys.platform == "linux" else 0
_PEEK = _READ | int(socket.MSG_PEEK) | _WHOLE_SIZE

# For the control messages that are asked for here, and some that a program may have
# asked for: the kernel leaves out what does not fit.
_ANCILLARY_SIZE = 256


class Arrival:
    """What is told of one datagram, beside its bytes."""

    __slots__ = ("client_address", "destination", "truncated_from")

    def __init__(
        self,
        client_address: Any,
        destination: Destination | None = None,
        truncated_from: int | None = None,
    ) -> None:
        self.client_address = client_address
        self.destination = destination
        self.truncated_from = truncated_from

    def is_cut(self, data: object, max_packet_size: int) -> bool:
        """Whether `data`, which others have read after a peek, is only the beginning of it.

        They may have read more than `max_packet_size` bytes, or made something else of
        them: then it is whole, as far as can be told.
        """
        if not (isinstance(data, Sized) and len(data) <= max_packet_size):
            self.truncated_from = None
        return self.truncated_from is not None

    def answer_from(self, address: Any) -> ControlMessages:
        """The control messages with which something sent to `address` is an answer to this.

        To another port of the client's host too, which compares as well.
        """
        destination = self.destination
        if destination is None or not isinstance(address, tuple):
            return ()
        client_address = self.client_address
        if address is client_address or address[:1] == client_address[:1]:
            return destination.answer_from
        return ()

    def server_address(self, sock: socket.socket) -> Any:
        """The address to which the datagram was sent, in the form of `getsockname()`."""
        own = sock.getsockname()
        if self.destination is None:
            return own
        host, scope, _ = self.destination
        return (host, own[1]) if len(own) == 2 else (host, own[1], 0, scope)


class DatagramReceiver:
    """Reads the datagrams of one socket. Never waits: BlockingIOError when there is none.

    At most `max_packet_size` bytes of each are kept. `timeout` is what the time-out of
    the socket has to be meanwhile, 0 or None. All methods run on one thread.
    """

    def __init__(self, sock: socket.socket, max_packet_size: int, timeout: float | None) -> None:
        self.socket = sock
        self.max_packet_size = max_packet_size
        self.timeout = timeout
        self._read_size = max(max_packet_size + 1, _LARGEST)
        # Each look at it makes an enum member.
        self._is_ipv6 = sock.family == socket.AF_INET6
        self._tells_destination = ask_for_destinations(sock)
        self._log_limit = LogLimit()
        # What is told of the datagram that an overridden get_request() is about to read,
        # or has read with ours.
        self.last: Arrival | None = None

    def receive(self) -> tuple[bytes, Any, Arrival | None]:
        """One datagram, its sender, and what else there is to tell of it, if anything."""
        if self._tells_destination:
            data, ancillary, _, client_address = self.socket.recvmsg(
                self._read_size, _ANCILLARY_SIZE, _READ
            )
            arrival = Arrival(client_address, destination_of(ancillary, self._is_ipv6))
        else:
            data, client_address = self.socket.recvfrom(self._read_size, _READ)
            arrival = None
        if len(data) > self.max_packet_size:
            arrival = arrival or Arrival(client_address)
            arrival.truncated_from = len(data)
            data = data[: self.max_packet_size]
        return data, client_address, arrival

    def peek(self) -> Arrival:
        """What there is to tell of the next datagram, which somebody else is about to read.

        It counts as truncated when it is longer than `max_packet_size`.
        """
        self.forget_timeout()
        one = bytearray(1)
        destination = None
        if self._tells_destination:
            size, ancillary, _, client_address = self.socket.recvmsg_into(
                [one], _ANCILLARY_SIZE, _PEEK
            )
            destination = destination_of(ancillary, self._is_ipv6)
        else:
            size, client_address = self.socket.recvfrom_into(one, 0, _PEEK)
        too_long = _WHOLE_SIZE and size > self.max_packet_size
        return Arrival(client_address, destination, size if too_long else None)

    def forget_timeout(self) -> None:
        """Undo a time-out that somebody has set meanwhile: Python would wait before each call."""
        if self.socket.gettimeout():
            set_while_read(self.socket, self.timeout)

    def log_truncated(self, arrival: Arrival) -> None:
        """Say that a datagram was cut, once a minute at most."""
        count = self._log_limit.count()
        if count:
            logger.warning(
                "a datagram of %d bytes from %r was cut to max_packet_size, %d; "
                "so were %d others since this was last logged",
                arrival.truncated_from,
                arrival.client_address,
                self.max_packet_size,
                count - 1,
                extra={"client_address": arrival.client_address, "request_id": None},
            )

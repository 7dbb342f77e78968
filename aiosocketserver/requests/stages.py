"""The stages of a request that depend on what it comes by: a connection, or a datagram."""

from __future__ import annotations

from typing import Any

from ..errors import TimedOut
from ..sockets.plain_socket import is_error_of
from .entries import InProgress, InTask


class Stages:
    """Those of a request that is served as it is. On the loop's thread, but where it says so."""

    # Whether a proxy may tell whose request it is.
    asks_proxies = False

    # Whether requests are encrypted.
    secures = False

    async def identified(self, entry: InTask) -> bool:
        """Learn from a proxy whose request it is; False if that client is not served."""
        return True

    def prepared(self, entry: InTask) -> Any:
        """What the hooks and the handler get for what `get_request` returned.

        `entry.request` is from then on what the server itself holds the request by.
        """
        return entry.request

    async def secured(self, entry: InTask) -> Any:
        """The request, after the TLS handshake."""
        return entry.request

    def for_hooks(self, entry: InTask) -> Any:
        """The request as the hooks that come after a failure get it."""
        return entry.request

    # When it fails; in the handler's thread

    def is_clients_fault(self, error: BaseException, request: Any) -> bool:
        """Whether this request's own connection raised `error`."""
        return is_error_of(error, request)

    def is_handshakes(self, error: BaseException, request: Any) -> bool:
        """Whether a request failed with `error` because its TLS handshake did."""
        return False

    def was_told(self, error: BaseException, request: Any) -> bool:
        """Whether `error` is of a time-out for which handle_timed_out() was called as it struck."""
        struck = isinstance(error, TimedOut) or getattr(request, "_expired", "") != ""
        return struck and self.is_clients_fault(error, request)

    def option_that_struck(self, error: BaseException, request: Any) -> str:
        """The time-out of the server that is why a legacy handler failed, or nothing."""
        return ""

    # What they wait for, and their end

    def waits_for(self, entry: InProgress) -> str | None:
        """What a request waits for: see `RequestInProgress`. In any thread."""
        return entry.waits_for()

    def end_unheard(self) -> None:
        """End the connections whose client has said nothing yet, or says nothing more."""

    async def wait_closed(self) -> None:
        """Return when the sockets of the requests that have ended are closed."""

    def abort_closing(self) -> None:
        """Close the sockets that are still on their way to being closed."""

    def close_in_child(self, kept: object) -> None:
        """In a forked child: let go of all requests but `kept`."""

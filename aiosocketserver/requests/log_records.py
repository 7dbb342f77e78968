"""Whose request a log record is about: `client_address` and `request_id` in each."""

from __future__ import annotations

import logging

from ..logs.printable import printable
from .entries import current


class _NameRequest(logging.Filter):
    """Adds to each record whose request the running code serves; None outside of any."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            request = current.get()
            record.client_address = None if request is None else request.client_address
            record.request_id = None if request is None else request.id
        address: object = getattr(record, "client_address", None)
        if isinstance(address, str):
            # The name of a Unix client, which may be anything.
            record.client_address = printable(address)
        return True


def request_id() -> int | None:
    """The number of the request that the running code serves, as in our log records.

    Works in handlers and hooks, on the loop, in threads and in children. None outside.
    """
    request = current.get()
    return None if request is None else request.id


logging.getLogger("aiosocketserver").addFilter(_NameRequest())

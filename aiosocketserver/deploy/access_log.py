"""The access log: a line for each request that has ended."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from ..logs.printable import spell_address
from ..requests.statistics import RequestEnd
from .log_output import without_waiting

logger = logging.getLogger("aiosocketserver.access")


def set_up() -> None:
    """Have the lines go to standard output, as they are, unless the program sees to them."""
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.propagate = False
        # A line for each request: to wait for the thread that writes it would cost too much.
        logger.addHandler(logging.StreamHandler(without_waiting(sys.stdout, waits=False)))


def log_text(end: RequestEnd) -> None:
    """An observer of requests: one line to read."""
    moved = "" if end.bytes_received is None else f" {end.bytes_received} in {end.bytes_sent} out"
    logger.info(
        "%s %s #%d %s %.6f s%s",
        _now(),
        spell_address(end.client_address) or "-",
        end.request_id,
        end.outcome,
        end.seconds,
        moved,
    )


def log_json(end: RequestEnd) -> None:
    """An observer of requests: one JSON object."""
    logger.info(
        json.dumps(
            {
                "time": _now(),
                "client": spell_address(end.client_address),
                "request": end.request_id,
                "outcome": end.outcome,
                "seconds": round(end.seconds, 6),
                "received": end.bytes_received,
                "sent": end.bytes_sent,
            }
        )
    )


OBSERVERS = {"text": log_text, "json": log_json}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

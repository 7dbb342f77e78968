"""`functools.partial`, which programs give in the place of a handler, a server or a function."""

from __future__ import annotations

import functools
from typing import Any


def without_arguments(target: Any) -> Any:
    """What a partial, of a partial perhaps, calls in the end; anything else as it is."""
    while isinstance(target, functools.partial):
        target = target.func
    return target

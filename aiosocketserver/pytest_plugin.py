"""A pytest plugin: the fixture `serving` gives a test servers that serve while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def serving() -> Iterator[Callable[..., Any]]:
    """A function that takes what `aiosocketserver.serving` does, and returns the address.

    Each server is ready when the function returns, and is shut down when the test ends.
    """
    # Not before a test wants it: pytest loads plugins before anything else.
    from .deploy import serving as served

    with contextlib.ExitStack() as stack:

        def serve(target: Any, bind: str = "tcp://127.0.0.1:0", **options: Any) -> Any:
            return stack.enter_context(served(target, bind, **options))

        yield serve

"""Signals wake the event loop of the main thread, whose Python handlers run between two steps."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Generator


@contextlib.contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Have signals wake the loop, which calls Python's handlers for them when it runs.

    One that comes just before the loop waits, or to another thread, would else be seen after
    the next event (CPython does so for handlers of `loop.add_signal_handler` only). In another
    thread than the main one, where no handler runs, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        try:
            loop.add_reader(ours, ours.recv, 4096)
        except NotImplementedError:
            # Nothing can be served on such a loop, which is told where that is tried.
            yield
            return
        # A loop around this one may have had it, and has it back afterwards.
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(ours)

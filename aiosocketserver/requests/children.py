"""Forked children: they leave the parent's loop first, and are reaped one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from ..cpython import set_running_loop
from .partials import without_arguments


class _HasDescriptors(Protocol):
    def _close_in_child(self, kept: object) -> None:
        """Let go of the loop and of all descriptors but that of the request `kept`."""


# Seconds between two looks at a child for which there is neither a descriptor nor a thread.
_LOOK = 0.1

# Every server of this process, for a forked child to let go of it.
live_servers: weakref.WeakSet[_HasDescriptors] = weakref.WeakSet()


def start_child(serve: Callable[[], int]) -> tuple[int, BaseException | None]:
    """Fork a child that calls `serve` and exits with what it returns; the process id.

    Beside it what `os.fork` has raised although the child exists, for the caller to tell of
    when it has kept the id. `serve` begins without the parent's loop, and calls
    `leave_servers` for the rest. The child never returns; whatever `serve` raises ends it
    with exit code 1.
    """
    # A signal that comes before the child has left the loop would be the loop's, in
    # both processes. It waits.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid, raised = _fork()
        if not pid:
            status = 1
            try:
                _leave_loop()
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
                status = serve()
            finally:
                # Whatever happens: the parent's loop must not go on in here. Out of
                # range, the status would be an error.
                os._exit(status & 0xFF)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return pid, raised


def _fork() -> tuple[int, BaseException | None]:
    """`os.fork`, and what it has raised although the child exists.

    Python 3.12 and later warn in the parent of threads. From 3.15 on that warning, where it
    is an error, is raised in the place of the process id, and the child would be nobody's:
    so the child tells its id itself. To look for such warnings with `catch_warnings` would
    have every warning of the process given once more after each fork.
    """
    try:
        reading, writing = os.pipe()
    except OSError:
        # No descriptor is left. The child may do without.
        return os.fork(), None
    pid, raised = 0, None
    try:
        try:
            pid = os.fork()
            if not pid:
                os.write(writing, b"%d" % os.getpid())
        finally:
            os.close(writing)
    except BaseException as error:
        # Empty when there is no child.
        pid, raised = int(os.read(reading, 32) or 0), error
        if not pid:
            raise
    finally:
        os.close(reading)
    return pid, raised


def flush_standard_streams() -> None:
    """Write out what is buffered: before a fork, or it comes twice, and before a child's end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            # None, closed, or a reader that is gone: print() would have told already.
            continue


def _leave_loop() -> None:
    """Undo in this child what the loop did to the process, without touching the loop.

    Its epoll instance and wake-up socket are shared with the parent: to remove
    something from it here would remove it there.
    """
    signal.set_wakeup_fd(-1)
    set_running_loop(None)
    for number in signal.valid_signals():
        if is_from_loop(signal.getsignal(number)):
            signal.signal(number, _pass_once if number == signal.SIGINT else signal.SIG_DFL)


def _pass_once(number: int, _: object) -> None:
    """Leave the first Ctrl-C, which a terminal sends to children too, to the parent.

    Its loop handles it, and has the children end in order. A second one ends this child.
    """
    signal.signal(number, signal.SIG_DFL)


def is_from_loop(handler: Any) -> bool:
    """Whether a signal handler is one of an event loop, or of what drives it."""
    handler = without_arguments(handler)
    bound_to = getattr(handler, "__self__", None)
    if getattr(bound_to, "of_loop", False):
        return True
    owner = type(bound_to).__module__
    module = getattr(handler, "__module__", None) or ""
    return any(name.partition(".")[0] in ("asyncio", "uvloop") for name in (owner, module))


def leave_servers(server: object = None, request: object = None) -> None:
    """In a child: close what the parent's servers have open, but for `request` of `server`."""
    for each in list(live_servers):
        each._close_in_child(request if each is server else None)


def reap(pid: int, *, blocking: bool = False) -> int | None:
    """The wait status of a child that has ended; None while it runs, unless `blocking`.

    0 for one that somebody else has reaped: the kernel, where SIGCHLD is ignored.
    """
    try:
        ended, status = os.waitpid(pid, 0 if blocking else os.WNOHANG)
    except ChildProcessError:
        return 0
    return status if ended else None


class ChildWatch:
    """Has a loop call `on_end` when a child has ended, which then is to be reaped."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pid: int, on_end: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._pid = pid
        self._on_end = on_end
        self._descriptor = -1
        self._timer: asyncio.TimerHandle | None = None
        try:
            self._descriptor = os.pidfd_open(pid)
            loop.add_reader(self._descriptor, on_end)
        except (AttributeError, OSError, MemoryError):
            # Another system than Linux, no descriptor left, or no memory to watch it.
            self.close_in_child()
            self._watch_without_descriptor()

    def _watch_without_descriptor(self) -> None:
        thread = threading.Thread(target=self._wait, daemon=True, name="child watcher")
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            # No thread either: the child is there, and has to be reaped even so.
            self._look()

    def _look(self) -> None:
        try:
            goes_on = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None
        except ChildProcessError:
            goes_on = False
        if goes_on:
            self._timer = self._loop.call_later(_LOOK, self._look)
        else:
            self._on_end()

    def _wait(self) -> None:
        try:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
        try:
            self._loop.call_soon_threadsafe(self._on_end)
        except RuntimeError:
            # The loop has ended: server_close() reaps.
            pass

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
            self.close_in_child()

    def close_in_child(self) -> None:
        """In another child: let go of the descriptor and leave the loop alone."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

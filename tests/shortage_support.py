"""What the tests of shortages share: threads and children that cannot be started for a while."""

import errno
import os
import threading
from typing import Any

import pytest

# What CPython raises for a failed pthread_create(3), for fork(2) at a limit of processes and
# without memory, and where there is none for an object.
NO_THREAD = RuntimeError("can't start new thread")
NO_PROCESS = BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
NO_KERNEL_MEMORY = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
NO_MEMORY = MemoryError()


class Shortage:
    """Lets no thread, or child, be started from now on, until `end`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, what: str, error: BaseException) -> None:
        self.tries = 0
        """How often somebody has tried."""
        self.error: BaseException | None = error
        owner: Any = threading.Thread if what == "start" else os
        self._start = getattr(owner, what)

        def start(*args: Any) -> Any:
            # Not the threads of the test itself.
            if self.error is None or (args and "worker" not in args[0].name):
                return self._start(*args)
            self.tries += 1
            raise self.error

        monkeypatch.setattr(owner, what, start)

    def end(self) -> None:
        """There is enough again."""
        self.error = None

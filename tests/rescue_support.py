"""For tests in which a loop could stand still."""

import asyncio
import threading
from collections.abc import Callable


class Rescuer:
    """Helps a loop that stands still, so that the test fails and does not hang.

    While the loop has not run a callback for ten seconds, `rescue` is called in a thread, again
    and again.
    """

    def __init__(self, rescue: Callable[[], object]) -> None:
        self.was_needed = False
        self._rescue = rescue
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._runs = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._runs.set()
        self._thread.join()
        assert not self.was_needed, "the loop stood still"

    def _run(self) -> None:
        while not self._ended.wait(0.1):
            self._runs.clear()
            # Either it is seen here, or `_runs` is set behind it.
            if self._ended.is_set():
                return
            self._loop.call_soon_threadsafe(self._runs.set)
            while not self._runs.wait(0.01 if self.was_needed else 10):
                self.was_needed = True
                self._rescue()
